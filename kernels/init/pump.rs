//! The payload's pipes, joined to the raw serial line: what arrives goes to its standard input,
//! what it writes goes out. Neither direction waits for the other.

use crate::sys::{self, PollFd};
use crate::{console, memory};

/// A line discipline hands out, and the serial driver takes, at most this much at a time.
const CHUNK: usize = 4096;

/// Longest time between two looks at carrier detect, in milliseconds. The watching thread reports
/// when it falls; a look now and then is for the edge that it can miss between two waits.
const SLOWEST_LOOK: u64 = 500;
/// Time to the first such look after something arrived: mostly the end follows the data at once.
const FIRST_LOOK: u64 = 2;

/// One direction.
struct Flow {
    from: i32,
    to: i32,
    buffer: &'static mut [u8],
    start: usize,
    end: usize,
    /// Bytes read so far.
    taken: usize,
}

/// How far a step of a flow got.
#[derive(PartialEq, Eq)]
enum Step {
    /// Something moved.
    Moved,
    /// Nothing to read just now, or no room to write.
    Waits,
    /// The source has ended and all of it is written.
    Ended,
    /// The reader is gone.
    Refused,
}

impl Flow {
    fn new(from: i32, to: i32) -> Result<Self, i32> {
        Ok(Flow { from, to, buffer: memory::take(CHUNK)?, start: 0, end: 0, taken: 0 })
    }

    fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Reads when the buffer is empty (at most `most` bytes), then writes what it can.
    fn step(&mut self, most: usize) -> Step {
        if self.is_empty() {
            let room = &mut self.buffer[..most.min(CHUNK)];
            match sys::read(self.from, room) {
                Ok(0) | Err(sys::EIO) => return Step::Ended,
                Ok(count) => {
                    (self.start, self.end) = (0, count);
                    self.taken += count;
                }
                Err(_) => return Step::Waits,
            }
        }
        match sys::write(self.to, &self.buffer[self.start..self.end]) {
            Ok(count) => {
                self.start += count;
                Step::Moved
            }
            Err(sys::EAGAIN | sys::EINTR) => Step::Waits,
            Err(_) => Step::Refused,
        }
    }

    /// What has to be waited for before the next step.
    fn wanted(&self) -> PollFd {
        if self.is_empty() {
            PollFd { fd: self.from, events: sys::POLLIN, revents: 0 }
        } else {
            PollFd { fd: self.to, events: sys::POLLOUT, revents: 0 }
        }
    }
}

/// Both directions, and the payload's ends of the pipes until it has started.
pub struct Pump {
    input: Flow,
    output: Flow,
    input_open: bool,
    output_open: bool,
    report: (i32, i32),
    look: u64,
    payload_ends: (i32, i32),
}

impl Pump {
    /// Makes the pipes for a payload beside `line`, which is raw and non-blocking.
    pub fn new(line: i32) -> Result<Self, i32> {
        let (stdin, feed) = sys::pipe(sys::O_CLOEXEC)?;
        let (drain, stdout) = sys::pipe(sys::O_CLOEXEC)?;
        let report = sys::pipe(sys::O_CLOEXEC | sys::O_NONBLOCK)?;
        // Only this side's ends: a payload would be surprised by a standard input that does not block.
        sys::set_nonblocking(feed)?;
        sys::set_nonblocking(drain)?;
        Ok(Pump {
            input: Flow::new(line, feed)?,
            output: Flow::new(drain, line)?,
            input_open: true,
            output_open: true,
            report,
            look: FIRST_LOOK,
            payload_ends: (stdin, stdout),
        })
    }

    /// The payload's standard input and output.
    pub fn payload_ends(&self) -> (i32, i32) {
        self.payload_ends
    }

    /// To be called once the payload holds its ends: this process lets go of them.
    pub fn payload_started(&mut self) {
        sys::close(self.payload_ends.0);
        sys::close(self.payload_ends.1);
        self.move_input();
        if self.input_open {
            console::watch(Some(self.report.1), false);
        }
    }

    /// Waits for bytes, room, a modem line or a signal, and moves what can be moved.
    pub fn wait(&mut self) {
        let unused = PollFd { fd: -1, events: 0, revents: 0 };
        let mut fds = [
            if self.output_open { self.output.wanted() } else { unused },
            if self.input_open { self.input.wanted() } else { unused },
            PollFd { fd: self.report.0, events: sys::POLLIN, revents: 0 },
        ];
        let mut look = sys::TimeSpec { seconds: 0, nanoseconds: (self.look * 1_000_000) as i64 };
        let looking = self.input_open && self.input.is_empty();
        let ready = sys::ppoll(&mut fds, looking.then_some(&mut look));
        if ready == Ok(0) {
            self.look = (self.look * 2).min(SLOWEST_LOOK);
        }
        if fds[2].revents != 0 {
            let _ = sys::read(self.report.0, &mut [0; 64]);
        }
        if fds[0].revents != 0 {
            // A few at a time, so that a flood of output does not hold up the input.
            for _ in 0..16 {
                if self.move_output(CHUNK) != Step::Moved {
                    break;
                }
            }
        }
        if self.input_open && (fds[1].revents != 0 || fds[2].revents != 0 || ready == Ok(0)) {
            self.move_input();
        }
    }

    fn move_output(&mut self, most: usize) -> Step {
        let step = self.output.step(most);
        if matches!(step, Step::Ended | Step::Refused) {
            self.output_open = false;
        }
        step
    }

    /// Moves input until it has to wait. Whether the carrier is there is asked before reading:
    /// the monitor drops it after the last byte, so nothing can come once it was seen gone and
    /// the line then had nothing left.
    fn move_input(&mut self) {
        loop {
            let carrier = !self.input.is_empty() || console::carrier(self.input.from);
            match self.input.step(CHUNK) {
                Step::Moved => self.look = FIRST_LOOK,
                Step::Waits if carrier || !self.input.is_empty() => return,
                Step::Waits | Step::Ended | Step::Refused => break,
            }
        }
        // The end of the input, or a payload that takes no more of it. In the latter case the rest
        // stays with the host, as in a pipe that nobody reads.
        sys::close(self.input.to);
        self.input_open = false;
    }

    /// Moves out what the payload had written when it ended. Processes it left behind may hold
    /// the pipe open and go on writing; that is not waited for.
    pub fn finish(&mut self) {
        let goal = self.output.taken + console::waiting(self.output.from);
        while self.output_open && (self.output.taken < goal || !self.output.is_empty()) {
            if self.move_output(goal - self.output.taken) == Step::Waits {
                let _ = sys::ppoll(&mut [self.output.wanted()], None);
            }
        }
    }
}

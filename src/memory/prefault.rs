//! Taking every page of a mapping from the host, on several threads.

use std::io;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;

use super::mapping::Mapping;
use crate::layout::PAGE_SIZE;
use crate::units::ByteSize;

/// Bytes a thread takes in one call. While it is under way, no other thread of the process can change its mappings, and KVM
/// does so when a machine is made; a call takes a few milliseconds.
const CHUNK: u64 = 8 << 20;
/// A thread calls the kernel and sends a number.
const STACK: usize = 64 << 10;

/// Why RAM is not all there.
#[derive(Debug, thiserror::Error)]
pub enum PrefaultError {
    /// The host could not give a page.
    #[error("the host gave {done} of {size} of guest RAM and then no more: {reason}")]
    NoPage {
        /// What is there.
        done: ByteSize,
        /// What was asked for.
        size: ByteSize,
        /// Why, as far as the kernel tells.
        reason: String,
    },
    /// The caller did not want to go on.
    #[error("stopped with {done} of {size} of guest RAM taken")]
    Stopped {
        /// What is there.
        done: ByteSize,
        /// What was asked for.
        size: ByteSize,
    },
}

/// Which of the kernel's calls takes pages.
#[derive(Clone, Copy)]
enum Call {
    /// MADV_POPULATE_WRITE, Linux 5.14.
    Populate,
    /// Reads a zero into each page from this descriptor of /dev/zero: the kernel touches the page, so that one it does not have
    /// is an error and no signal. What was in that byte is lost.
    Touch(i32),
}

/// Takes all pages of `mapping`, on at most `threads` threads besides the calling one, which are gone afterwards.
///
/// `progress` is told how many bytes are there, after each chunk, and may stop it. The memory must not have been written to:
/// on a kernel before 5.14 the first byte of each page becomes zero.
pub(super) fn prefault(
    mapping: &Mapping,
    page: u64,
    threads: usize,
    progress: &mut dyn FnMut(ByteSize) -> ControlFlow<()>,
) -> Result<(), PrefaultError> {
    let zero;
    let call = if populate_is_known(mapping) {
        Call::Populate
    } else {
        let failed = |e: io::Error| no_page(0, mapping, format!("cannot open /dev/zero: {e}"));
        zero = std::fs::File::open("/dev/zero").map_err(failed)?;
        Call::Touch(std::os::fd::AsRawFd::as_raw_fd(&zero))
    };
    run(mapping, page, threads, call, progress)
}

fn run(
    mapping: &Mapping,
    page: u64,
    threads: usize,
    call: Call,
    progress: &mut dyn FnMut(ByteSize) -> ControlFlow<()>,
) -> Result<(), PrefaultError> {
    let (start, len, chunk) = (mapping.address() as usize, mapping.len(), CHUNK.max(page) as usize);
    let (next, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = |done: Sender<io::Result<usize>>| {
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(chunk, Ordering::Relaxed);
            if at >= len {
                return;
            }
            let bytes = chunk.min(len - at);
            let result = take(call, start + at, bytes).map(|()| bytes);
            stop.fetch_or(result.is_err(), Ordering::Relaxed);
            // The receiver outlives every sender.
            let _ = done.send(result);
        }
    };
    let (sender, results) = channel();
    let (mut done, mut failure) = (0, None);
    thread::scope(|scope| {
        let mut started = 0;
        for _ in 0..threads.min(len.div_ceil(chunk)) {
            let sender = sender.clone();
            let thread = thread::Builder::new().name("prefault".into()).stack_size(STACK);
            // A host that has no thread left still has this one.
            started += usize::from(thread.spawn_scoped(scope, || work(sender)).is_ok());
        }
        if started == 0 {
            work(sender.clone());
        }
        drop(sender);
        for result in results {
            match result {
                Ok(bytes) => done += bytes,
                Err(error) => failure = failure.take().or(Some(error)),
            }
            if failure.is_none() && !stop.load(Ordering::Relaxed) && progress(ByteSize::bytes(done as u64)).is_break() {
                stop.store(true, Ordering::Relaxed);
            }
        }
    });
    match failure {
        Some(error) => Err(no_page(done, mapping, explain(&error))),
        None if done < len => Err(PrefaultError::Stopped { done: size(done), size: size(len) }),
        None => Ok(()),
    }
}

fn size(bytes: usize) -> ByteSize {
    ByteSize::bytes(bytes as u64)
}

fn no_page(done: usize, mapping: &Mapping, reason: String) -> PrefaultError {
    PrefaultError::NoPage { done: size(done), size: size(mapping.len()), reason }
}

/// What an error of MADV_POPULATE_WRITE means here, madvise(2).
fn explain(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOMEM) => "it, or this process's cgroup, is out of memory".to_owned(),
        Some(libc::EFAULT) => {
            "a page could not be had; a pool of huge pages is empty, or a cgroup's limit of them is reached".to_owned()
        }
        Some(libc::EHWPOISON) => "a page of the host's memory is broken (the kernel's log says which)".to_owned(),
        _ => error.to_string(),
    }
}

/// Asks about no memory at all: a kernel before 5.14 does not know the advice.
fn populate_is_known(mapping: &Mapping) -> bool {
    // SAFETY: an empty range of a mapping of ours; nothing happens to it.
    unsafe { libc::madvise(mapping.address(), 0, libc::MADV_POPULATE_WRITE) == 0 }
}

fn take(call: Call, start: usize, len: usize) -> io::Result<()> {
    match call {
        Call::Populate => populate(start, len),
        Call::Touch(zero) => touch(zero, start, len),
    }
}

fn populate(start: usize, len: usize) -> io::Result<()> {
    loop {
        // SAFETY: the range is whole pages of a mapping that the caller borrows; populating changes no contents.
        if unsafe { libc::madvise(start as *mut libc::c_void, len, libc::MADV_POPULATE_WRITE) } == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EAGAIN)) {
            return Err(error);
        }
    }
}

fn touch(zero: i32, start: usize, len: usize) -> io::Result<()> {
    /// IOV_MAX.
    const AT_ONCE: usize = 1024;
    let pages: Vec<usize> = (start..start + len).step_by(PAGE_SIZE as usize).collect();
    let mut left = &pages[..];
    while !left.is_empty() {
        let batch = &left[..left.len().min(AT_ONCE)];
        let vectors: Vec<_> =
            batch.iter().map(|page| libc::iovec { iov_base: *page as *mut libc::c_void, iov_len: 1 }).collect();
        // SAFETY: each vector is one byte in a mapping that the caller borrows and nobody has written to.
        let read = unsafe { libc::readv(zero, vectors.as_ptr(), vectors.len() as libc::c_int) };
        if read < 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::Interrupted {
                continue;
            }
            return Err(error);
        }
        if read == 0 {
            return Err(io::Error::from_raw_os_error(libc::EFAULT));
        }
        // A short count is the page that could not be had; the next call says why.
        left = &left[read as usize..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which pages of a mapping are there, mincore(2).
    fn resident(mapping: &Mapping) -> usize {
        let mut pages = vec![0u8; mapping.len() / PAGE_SIZE as usize];
        // SAFETY: one byte a page of a mapping of ours.
        assert_eq!(unsafe { libc::mincore(mapping.address(), mapping.len(), pages.as_mut_ptr()) }, 0);
        pages.iter().filter(|page| **page & 1 == 1).count()
    }

    /// Proves that either call takes every page of a size that is no multiple of a chunk, on no, one and several threads, and
    /// that progress grows by what was taken up to all of it.
    #[test]
    fn takes_every_page() {
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let touch = Call::Touch(std::os::fd::AsRawFd::as_raw_fd(&zero));
        for (call, threads) in [(Call::Populate, 0), (Call::Populate, 3), (touch, 1), (touch, 3)] {
            let mapping = Mapping::aligned((21 << 20) + 4096).unwrap();
            assert_eq!(resident(&mapping), 0);
            let mut seen = vec![0];
            let mut note = |done: ByteSize| {
                seen.push(done.as_u64());
                ControlFlow::Continue(())
            };
            run(&mapping, PAGE_SIZE, threads, call, &mut note).unwrap();
            assert_eq!(resident(&mapping), mapping.len() / PAGE_SIZE as usize);
            assert!(seen.is_sorted() && seen.len() == 4 && seen[3] == mapping.len() as u64, "{seen:?}");
        }
    }

    /// Proves that it stops when it is told to, soon, and says how far it came.
    #[test]
    fn stops_when_told() {
        let mapping = Mapping::aligned(400 << 20).unwrap();
        let error = run(&mapping, PAGE_SIZE, 2, Call::Populate, &mut |_| ControlFlow::Break(())).unwrap_err();
        let PrefaultError::Stopped { done, size } = error else { panic!("{error}") };
        assert!(done.as_u64() >= CHUNK && done < size, "{done}");
    }

    /// Proves that memory that cannot be had is an error by either call, with no signal: here, memory that cannot be written.
    #[test]
    fn a_page_that_is_not_to_be_had() {
        let zero = std::fs::File::open("/dev/zero").unwrap();
        let touch = Call::Touch(std::os::fd::AsRawFd::as_raw_fd(&zero));
        for call in [Call::Populate, touch] {
            let mapping = Mapping::aligned(24 << 20).unwrap();
            let hole = (mapping.address() as usize + (20 << 20)) as *mut libc::c_void;
            // SAFETY: pages of a mapping of ours that nothing has touched.
            assert_eq!(unsafe { libc::mprotect(hole, 4096, libc::PROT_NONE) }, 0);
            let error = run(&mapping, PAGE_SIZE, 2, call, &mut |_| ControlFlow::Continue(())).unwrap_err();
            assert!(matches!(error, PrefaultError::NoPage { .. }), "{error}");
        }
    }
}

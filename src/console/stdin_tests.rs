//! Tests of the input with real pipes, files and pseudoterminals.

use super::*;
use crate::console::input::{BACKLOG, Input, TERMINAL_BACKLOG};
use crate::console::testing::{one_at_a_time, open_slave, take, take_exactly, terminal, turn, turn_until};
use std::fs::File;
use std::io::{Read, Write};
use std::thread;

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn stream(fd: impl Into<OwnedFd>) -> Input {
    Input::new(Box::new(Stream::new(Stdin::Owned(fd.into()))), BACKLOG)
}

/// A pipe faster than the guest is paced: the backlog stays within its bound, nothing is lost, the end comes after all.
#[test]
fn a_pipe_is_paced() {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let bytes = pattern(1_000_000);
    let sent = bytes.clone();
    let writing = thread::spawn(move || writer.write_all(&sent).unwrap());
    let mut input = stream(reader);
    let mut got = Vec::new();
    // The guest takes nothing at first: the backlog fills and no more is asked for.
    turn_until(&mut input, |input| {
        let mut wanted = 0;
        input.interests(|_| wanted += 1);
        wanted == 0
    });
    assert!(!turn(&mut input, Duration::from_millis(1)) && !input.ended());
    let mut waiting = 0;
    input.offer(|bytes| {
        waiting += bytes.len();
        0
    });
    assert!(waiting <= BACKLOG);
    // Then in odd portions.
    turn_until(&mut input, |input| {
        for portion in [1, 3, 16, 4000] {
            input.offer(|bytes| {
                let taken = bytes.len().min(portion);
                got.extend_from_slice(&bytes[..taken]);
                taken
            });
        }
        input.ended()
    });
    assert!(got == bytes);
    writing.join().unwrap();
}

/// A regular file is read to its end and then has ended.
#[test]
fn a_file_is_read_to_its_end() {
    let mut file = tempfile::tempfile().unwrap();
    let bytes = pattern(200_000);
    file.write_all(&bytes).unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    let mut input = stream(file);
    let mut got = Vec::new();
    turn_until(&mut input, |input| {
        got.extend(take(input));
        input.ended()
    });
    assert!(got == bytes);
}

/// /dev/null, a directory and a descriptor open only for writing have ended at the first look.
#[test]
fn nothing_to_read_has_ended() {
    for fd in [File::open("/dev/null"), File::open("/"), File::create("/dev/null")] {
        let mut input = stream(fd.unwrap());
        turn(&mut input, Duration::from_millis(100));
        assert!(input.ended());
        input.interests(|_| panic!("an ended source has nothing to wait for"));
    }
}

/// An idle pipe is not the end, and nothing waits in a read.
#[test]
fn an_idle_pipe_goes_on() {
    let (reader, writer) = std::io::pipe().unwrap();
    let mut input = stream(reader);
    assert!(!turn(&mut input, Duration::from_millis(1)));
    assert!(!input.ended());
    drop(writer);
    turn(&mut input, Duration::from_millis(100));
    assert!(input.ended());
}

fn keyboard(path: &std::path::Path) -> Input {
    let slave = open_slave(path);
    let mut input =
        Input::new(Box::new(Keyboard::new(Terminal::of(slave.as_fd()).unwrap().unwrap())), TERMINAL_BACKLOG);
    assert_eq!(input.source_mut().resume().unwrap(), Standing::Foreground);
    input
}

/// Every byte a terminal can send reaches the guest as it is: Ctrl-C, Ctrl-D, Ctrl-Z, Ctrl-S, CR; the escape key's commands
/// do not.
#[test]
fn keys_reach_the_guest() {
    let _one = one_at_a_time();
    let (mut master, path) = terminal();
    let _hold = open_slave(&path);
    let mut input = keyboard(&path);
    let all: Vec<u8> = (0..=255).filter(|&b| b != crate::console::escape::ESCAPE_KEY).collect();
    master.write_all(&all).unwrap();
    assert_eq!(take_exactly(&mut input, all.len()), all);
    assert_eq!(input.take_request(), None);
    // The escape key is cut from its command by the reads.
    master.write_all(b"a\x1d").unwrap();
    assert_eq!(take_exactly(&mut input, 1), b"a");
    master.write_all(b"bc\x1d\x1dd\x1dq").unwrap();
    assert_eq!(take_exactly(&mut input, 3), b"c\x1dd");
    assert_eq!(input.take_request(), Some(Request::Break));
    turn_until(&mut input, |input| input.take_request() == Some(Request::Quit));
}

/// A paste of 1 MB arrives whole while the guest takes it slowly.
#[test]
fn a_paste_arrives_whole() {
    let _one = one_at_a_time();
    let (mut master, path) = terminal();
    let _hold = open_slave(&path);
    let mut input = keyboard(&path);
    let bytes: Vec<u8> = pattern(1_000_000).into_iter().map(|b| if b == 0x1d { b'x' } else { b }).collect();
    let sent = bytes.clone();
    let pasting = thread::spawn(move || {
        master.write_all(&sent).unwrap();
        master
    });
    let mut got = Vec::new();
    turn_until(&mut input, |input| {
        input.offer(|bytes| {
            let taken = bytes.len().min(997);
            got.extend_from_slice(&bytes[..taken]);
            taken
        });
        got.len() == bytes.len()
    });
    assert!(got == bytes);
    pasting.join().unwrap();
}

/// While the guest takes nothing of a paste larger than a pipe's backlog, the way out is still seen.
#[test]
fn a_stuck_guest_can_be_left() {
    let _one = one_at_a_time();
    let (mut master, path) = terminal();
    let _hold = open_slave(&path);
    let mut input = keyboard(&path);
    let typing = thread::spawn(move || {
        master.write_all(&vec![b'x'; 4 * BACKLOG]).unwrap();
        master.write_all(b"\x1dq").unwrap();
        master
    });
    turn_until(&mut input, |input| input.take_request() == Some(Request::Quit));
    typing.join().unwrap();
}

/// The terminal is gone (its window closed): the input has ended.
#[test]
fn a_closed_window_ends_the_input() {
    let _one = one_at_a_time();
    let (master, path) = terminal();
    let mut input = keyboard(&path);
    drop(master);
    turn_until(&mut input, |input| input.ended());
}

/// Given back and taken again, as around a stop: what is typed meanwhile is not read.
#[test]
fn suspend_and_resume() {
    let _one = one_at_a_time();
    let (mut master, path) = terminal();
    let slave = open_slave(&path);
    let mut input = keyboard(&path);
    input.source_mut().suspend();
    assert!(!terminal::is_raw());
    input.interests(|_| panic!("a suspended terminal is not waited for"));
    assert!(input.look_again().is_some());
    assert!(rustix::termios::tcgetattr(&slave).unwrap().local_modes.contains(rustix::termios::LocalModes::ECHO));
    input.source_mut().resume().unwrap();
    master.write_all(b"x").unwrap();
    assert_eq!(take_exactly(&mut input, 1), b"x");
    drop(input);
    let mut echo = [0; 16];
    rustix::io::ioctl_fionbio(&master, true).unwrap();
    assert!(master.read(&mut echo).is_err(), "nothing was echoed");
}

//! A bounded byte queue between one producer and one consumer, without locks.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use vm_memory::MmapRegion;

/// Keeps the producer's and the consumer's counter in cache lines of their own.
#[repr(align(64))]
struct Line<T>(T);

/// The queue. The counters only grow; their difference is the number of bytes held.
///
/// One thread may push at a time and one may take at a time (the caller's locks see to that). Breaking the rule can lose
/// or reorder bytes but touches no other memory: every cell is an atomic.
pub(super) struct Ring {
    /// Pages of its own and not the heap's, which clears what it gives: most of them are never touched.
    memory: MmapRegion,
    capacity: usize,
    pushed: Line<AtomicUsize>,
    taken: Line<AtomicUsize>,
}

impl Ring {
    /// An empty queue of `capacity` bytes, a power of two. Its memory is not touched before it is used.
    pub(super) fn new(capacity: usize) -> Self {
        assert!(capacity.is_power_of_two());
        let memory = MmapRegion::new(capacity).expect("the host has address space for a few pages");
        Self { memory, capacity, pushed: Line(AtomicUsize::new(0)), taken: Line(AtomicUsize::new(0)) }
    }

    #[allow(unsafe_code)]
    fn cells(&self) -> &[AtomicU8] {
        // SAFETY: the mapping has `capacity` bytes, all of them initialised to zero by the kernel, lives as long as `self`, and
        // is reached through these atomics only.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.capacity) }
    }

    /// Bytes the queue can hold.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Bytes held now.
    pub(super) fn len(&self) -> usize {
        let taken = self.taken.0.load(Ordering::SeqCst);
        self.pushed.0.load(Ordering::SeqCst).wrapping_sub(taken)
    }

    /// Adds a byte and returns how many are held with it, or `None` when the queue is full.
    ///
    /// The store is sequentially consistent, so that a consumer which announced that it sleeps and then looked either saw
    /// this byte or is seen asleep by the producer.
    #[inline]
    pub(super) fn push(&self, byte: u8) -> Option<usize> {
        let pushed = self.pushed.0.load(Ordering::Relaxed);
        let held = pushed.wrapping_sub(self.taken.0.load(Ordering::Acquire));
        if held >= self.capacity {
            return None;
        }
        self.cells()[pushed & (self.capacity - 1)].store(byte, Ordering::Relaxed);
        self.pushed.0.store(pushed.wrapping_add(1), Ordering::SeqCst);
        Some(held + 1)
    }

    /// Copies the oldest bytes into `into` without removing them, and returns their number.
    pub(super) fn peek(&self, into: &mut [u8]) -> usize {
        let taken = self.taken.0.load(Ordering::Relaxed);
        let held = self.pushed.0.load(Ordering::Acquire).wrapping_sub(taken);
        let start = taken & (self.capacity - 1);
        let count = held.min(into.len());
        let cells = self.cells();
        let first = count.min(self.capacity - start);
        for (to, from) in into.iter_mut().zip(cells[start..start + first].iter().chain(&cells[..count - first])) {
            *to = from.load(Ordering::Relaxed);
        }
        count
    }

    /// Removes the `count` oldest bytes, at most as many as [`Self::peek`] gave.
    pub(super) fn advance(&self, count: usize) {
        let taken = self.taken.0.load(Ordering::Relaxed);
        self.taken.0.store(taken.wrapping_add(count), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        /// Any mix of pushes and takes behaves as a bounded queue: nothing lost, nothing reordered, fullness exact.
        #[test]
        fn behaves_as_a_bounded_queue(steps in proptest::collection::vec((any::<bool>(), 0usize..40), 1..200)) {
            let ring = Ring::new(32);
            let mut model = VecDeque::new();
            let mut next = 0u8;
            for (push, count) in steps {
                if push {
                    for _ in 0..count {
                        let accepted = ring.push(next);
                        if model.len() < 32 {
                            model.push_back(next);
                            prop_assert_eq!(accepted, Some(model.len()));
                        } else {
                            prop_assert_eq!(accepted, None);
                        }
                        next = next.wrapping_add(1);
                    }
                } else {
                    let mut out = vec![0; count];
                    let got = ring.peek(&mut out);
                    prop_assert_eq!(got, count.min(model.len()));
                    let expected: Vec<u8> = model.drain(..got).collect();
                    prop_assert_eq!(&out[..got], &expected[..]);
                    ring.advance(got);
                }
                prop_assert_eq!(ring.len(), model.len());
            }
        }
    }

    /// Two threads at full speed through a small queue: every byte arrives once and in order.
    #[test]
    fn two_threads_lose_nothing() {
        let ring = Ring::new(64);
        const TOTAL: usize = 300_000;
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for i in 0..TOTAL {
                    while ring.push(((i * 31) >> 3) as u8).is_none() {
                        std::thread::yield_now();
                    }
                }
            });
            let (mut seen, mut buffer) = (0, [0; 50]);
            while seen < TOTAL {
                let got = ring.peek(&mut buffer);
                for &byte in &buffer[..got] {
                    assert_eq!(byte, ((seen * 31) >> 3) as u8);
                    seen += 1;
                }
                ring.advance(got);
                if got == 0 {
                    std::thread::yield_now();
                }
            }
        });
        assert_eq!(ring.len(), 0);
    }
}

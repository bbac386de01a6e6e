use super::*;
use crate::bench::compare::work::{Anchor, Record};

use Company::{Alone, Beside};

const MS: u64 = 1_000_000;

/// A counter of nanoseconds that begins with the host's clock, told to `uncertain` nanoseconds.
fn clock(uncertain: u64) -> HostClock {
    let anchor = |at: u64| Anchor { before: at - uncertain, took: 2 * uncertain, told: at };
    let record = Record { stamps: vec![0, 1], clocks: [anchor(100 * MS), anchor(9000 * MS)], rings: None };
    HostClock::of_container(&record, Instant::from_nanos(0), Instant::from_nanos(10_000 * MS)).unwrap()
}

/// A slice of `from` to `to` milliseconds; beside, the neighbour had three CPUs.
fn slice(company: Company, from: u64, to: u64) -> Slice {
    let had = if company == Company::Beside { 3 * (to - from) } else { 0 };
    let at = |ms| Instant::from_nanos(ms * MS);
    Slice { company, from: at(from), to: at(to), neighbour: Duration::from_millis(had), steal: Duration::ZERO }
}

/// Stamps of pieces of `us` each from `from` to `to` milliseconds.
fn pieces(us: u64, from: u64, to: u64) -> Vec<u64> {
    (from * MS..=to * MS).step_by(us as usize * 1000).collect()
}

/// Proves that pieces go where they began, that those near a switch are dropped and counted, and those before the first slice and
/// after the last whole pair are not: of a work of 100 us pieces from 1000 ms, with slices from 1100 ms.
#[test]
fn pieces_go_to_their_slices() {
    let slices = [
        slice(Alone, 1100, 1200),
        slice(Beside, 1201, 1301),
        slice(Beside, 1301, 1401),
        slice(Alone, 1402, 1502),
        slice(Alone, 1502, 1602),
    ];
    let sorted = sort(&pieces(100, 1000, 1550), &clock(0), &slices, 3);
    assert_eq!((sorted.pairs.len(), sorted.unfit, sorted.slices.len()), (2, 0, 4));
    // Of each slice's 1000 pieces, the first 20 and, since the margin holds on both sides, the last 20 go.
    let counts: Vec<_> = sorted.pairs.iter().map(|pair| (pair.base.len(), pair.treated.len())).collect();
    assert_eq!(counts, [(960, 960), (960, 960)]);
    // 40 in each slice, and 10 in each of two switches of 1 ms.
    assert_eq!(sorted.dropped, 4 * 40 + 20);
    assert!(sorted.pairs.iter().all(|pair| pair.base.iter().chain(&pair.treated).all(|us| (us - 100.0).abs() < 1e-3)));
    let figures = figures(1, &sorted);
    assert_eq!(figures.iter().map(|f| f.company).collect::<Vec<_>>(), [Alone, Beside, Beside, Alone]);
    assert!((figures[1].neighbour_cpus - 3.0).abs() < 1e-9 && figures[0].neighbour_cpus == 0.0);
    assert!(figures.iter().all(|f| f.round == 1 && f.pieces == 960 && (f.p99_us - 100.0).abs() < 1e-3));
    // A clock told to 3 ms costs 3 ms more at each end.
    let less = sort(&pieces(100, 1000, 1550), &clock(3 * MS), &slices, 3);
    assert_eq!(less.pairs[0].base.len(), 900);
}

/// Proves that a piece that was held up belongs to the slice it began in, however far it reaches into the next.
#[test]
fn held_up_pieces_stay_where_they_began() {
    let slices = [slice(Beside, 1100, 1200), slice(Alone, 1200, 1300)];
    let mut stamps = pieces(100, 1000, 1190);
    stamps.extend(pieces(100, 1230, 1400));
    let sorted = sort(&stamps, &clock(0), &slices, 3);
    assert_eq!(sorted.pairs[0].treated.last(), Some(&40_000.0));
    assert!(sorted.pairs[0].base.iter().all(|us| (us - 100.0).abs() < 1e-3));
}

/// Proves that a pair tells nothing when the neighbour ran while it was to be stopped, hardly ran while it was to run, or the work
/// hardly did; and that such pairs are counted.
#[test]
fn pairs_that_are_not_true_are_left_out() {
    let good = [slice(Alone, 1100, 1200), slice(Beside, 1200, 1300)];
    let ran = Slice { neighbour: Duration::from_millis(1), ..good[0] };
    let idle = Slice { neighbour: Duration::from_millis(14), ..good[1] };
    for (slices, us, kept) in [(good, 100, 1), ([ran, good[1]], 100, 0), ([good[0], idle], 100, 0), (good, 2000, 0)] {
        let sorted = sort(&pieces(us, 1000, 1400), &clock(0), &slices, 3);
        assert_eq!((sorted.pairs.len(), sorted.unfit), (kept, 1 - kept), "{slices:?}");
    }
    assert_eq!(sort(&[], &clock(0), &good, 3), Sorted::default());
}

/// Proves that each pair has one slice of either, each four cancel a steady drift, and that neither is always the first.
#[test]
fn the_order_is_balanced() {
    let order: Vec<Company> = order(3).take(400).collect();
    for four in order.chunks(4) {
        assert!(four == [Alone, Beside, Beside, Alone] || four == [Beside, Alone, Alone, Beside]);
    }
    let alone_first = order.chunks(4).filter(|four| four[0] == Alone).count();
    assert!((30..=70).contains(&alone_first), "{alone_first} of 100");
    assert!(order.iter().copied().ne(super::order(4).take(400)), "another seed, another order");
}

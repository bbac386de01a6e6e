use super::report::tests::report;
use super::*;

fn around(us: f64) -> Vec<f64> {
    (0..20).map(|i| us + f64::from(i * 7 % 20) / 10.0).collect()
}

/// Proves that a change is called real, that none is called none, and that few runs are called too few, also where nothing tells the
/// machine's drift.
#[test]
fn real_changes_are_told_from_chance() {
    let (fast, slow) = (around(100.0), around(120.0));
    let named = ["ringfence-same", "ringfence-slower", "ringfence-faster", "ringfence-few"];
    let a = report(&[(named[0], &fast), (named[1], &fast), (named[2], &slow), (named[3], &fast[..3]), ("gone", &fast)]);
    let b = report(&[(named[0], &fast), (named[1], &slow), (named[2], &fast), (named[3], &slow[..3])]);
    let changes = compare(&a, &b, None).unwrap();
    let verdicts: Vec<_> = changes.iter().map(|c| (c.subject.as_str(), c.verdict)).collect();
    let wanted = [Verdict::Same, Verdict::Slower, Verdict::Faster, Verdict::Unknown];
    assert_eq!(verdicts, named.into_iter().zip(wanted).collect::<Vec<_>>());
    assert!(changes[1].words().contains("is slower by 19.8 % ("), "{}", changes[1].words());
    assert!(changes[1].words().contains("that is real (p = 0.00"), "{}", changes[1].words());
    assert!(changes[0].words().contains("no difference"));
    let text: String = tables(&changes).iter().map(Table::render).collect();
    assert!(
        text.lines().all(|line| line.chars().count() <= 80) && text.contains("Nothing beside them tells"),
        "{text}"
    );
    let few = summary(&changes).pop().unwrap();
    assert!(few.contains("Too few runs to tell") && few.ends_with("ringfence-few (linux): exec to exit."), "{few}");
    assert!(differences(&a, &b).is_empty());
    assert!(matches!(compare(&report(&[("x", &fast)]), &b, None), Err(DiffError::NothingInCommon)));
    assert!(matches!(compare(&a, &b, Some("runc")), Err(DiffError::NoReference(name)) if name == "runc"));
}

/// Proves that on a machine that became a fifth slower for all a subject is said to be the same, that one which became slower by
/// itself is found, that the reference shows what the machine did, and who is taken for it.
#[test]
fn a_slower_machine_is_no_slower_subject() {
    let times = |us: f64, by: f64| around(us).into_iter().map(|us| us * by).collect::<Vec<_>>();
    let of = |by: f64, worse: f64| {
        let [own, base, other] = [times(200.0, by), times(90.0, by), times(5000.0, by * worse)];
        report(&[("ringfence", &own), ("process", &base), ("runc", &other)])
    };
    let (before, after) = (of(1.0, 1.0), of(1.2, 1.3));
    let changes = compare(&before, &after, None).unwrap();
    let verdicts: Vec<_> = changes.iter().map(|c| c.verdict).collect();
    assert_eq!(verdicts, [Verdict::Same, Verdict::Reference, Verdict::Slower]);
    let said: Vec<_> = changes.iter().map(Change::words).collect();
    assert!(said[0].contains("does not explain beside process") && said[0].contains("alone: +20.0 %"), "{said:?}");
    assert!(said[1].contains("changed by +20.0 % (") && said[1].contains("this is the machine"), "{said:?}");
    assert!(said[2].contains("is slower by 30.0 % beside process (") && said[2].contains("alone: +56.0 %"), "{said:?}");
    let summary = summary(&changes);
    assert_eq!(summary[1], "There is no difference that chance does not explain in ringfence (linux): exec to exit.");
    assert_eq!([&summary[0], &summary[2]], [&said[2], &said[1]]);
    let by_name = compare(&before, &after, Some("runc")).unwrap();
    assert_eq!(
        by_name.iter().map(|c| c.verdict).collect::<Vec<_>>(),
        [Verdict::Faster, Verdict::Faster, Verdict::Reference]
    );
    let text: String = tables(&changes).iter().map(Table::render).collect();
    assert!(text.contains("beside process") && text.lines().all(|line| line.chars().count() <= 80), "{text}");
}

/// Proves Holm's adjustment on his kind of example: p-values times the number of those not yet rejected, never falling.
#[test]
fn p_values_are_adjusted() {
    let (fast, slow) = (around(100.0), around(120.0));
    let one = compare(&report(&[("a", &slow)]), &report(&[("a", &fast)]), None).unwrap().remove(0);
    let mut changes: Vec<_> =
        [0.04, 0.01, 0.03].into_iter().map(|p| Change { p, verdict: Verdict::Same, ..one.clone() }).collect();
    judge(&mut changes);
    let adjusted: Vec<_> = changes.iter().map(|c| (c.p * 1000.0).round() as u32).collect();
    assert_eq!(adjusted, [60, 30, 60]);
    assert_eq!(changes.iter().filter(|c| c.verdict == Verdict::Faster).count(), 1);
}

/// Proves that a change of all subjects is put down to the machine, and one of some is not.
#[test]
fn what_all_have_in_common_is_the_machine() {
    let (fast, slow) = (around(100.0), around(120.0));
    let told = |after: [&[f64]; 3]| {
        let a = report(&[("x", &fast), ("y", &fast), ("z", &fast)]);
        let b = report(&[("x", after[0]), ("y", after[1]), ("z", after[2])]);
        alike(&compare(&a, &b, None).unwrap())
    };
    assert_eq!(
        told([&slow, &slow, &slow]),
        [
            "all 3 subjects (linux) became slower from exec to exit, 1.20 to 1.20 times: that is the machine, or whatever else \
          they share"
        ]
    );
    assert_eq!(told([&slow, &slow, &fast]), [""; 0]);
    assert_eq!(told([&fast, &fast, &fast]), [""; 0]);
}

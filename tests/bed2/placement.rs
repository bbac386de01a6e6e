//! Pinned guests on upstream KVM: its own threads, and who waits when a vCPU halts.

#[path = "../guests/mod.rs"]
#[allow(dead_code)]
mod guests;

use std::collections::HashMap;

use super::bed::{Bed, usable};
use guests::{Guest, halt, say};

/// look NAME OPTION...: runs the guest on CPU 1, and writes what the kernel says of its threads to /out/NAME: a line for each
/// of the process's threads and each of KVM's own, of its name, where it may run, and its time in the guest and out of it.
const LOOK: &str = r#"
mkdir -p /run/lock
look() {
    name=$1
    shift
    ringfence run --initrd none --kernel /guest/rests --cpuset-cpus 1 --timeout 60 "$@" </dev/null >/tmp/console 2>/out/$name.errors &
    while ! grep -q up /tmp/console; do sleep 0.1; done
    pid=$(sed -n 's/^pid //p' /run/lock/ringfence/cpu1)
    sleep 2
    for task in /proc/$pid/task/* $(grep -l '^kvm-' /proc/[0-9]*/comm | sed 's:/comm::'); do
        read comm <$task/comm
        list=$(sed -n 's/^Cpus_allowed_list:[[:space:]]*//p' $task/status)
        echo $comm $list $(sed 's/.*) //' $task/stat | cut -d' ' -f12,13)
    done >/out/$name
    kill $pid
    wait
    : >/tmp/console
}
look host --halt host
look polled --halt host:50
look guest --halt guest --name resting
look pit --irqchip kernel
"#;

/// Proves that on upstream KVM a pinned vCPU is on its CPU and everything else of the machine off it, KVM's own threads in the
/// kernel too; and that a vCPU that rests takes its CPU with `--halt guest` and leaves it with `--halt host`.
#[test]
fn a_pinned_guest_and_its_halts() {
    if !usable() {
        return;
    }
    let rests = Guest::new(|a| {
        say(a, "up\n")?;
        halt(a)
    });
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    std::fs::write(file.path(), rests.elf()).expect("the guest is written");
    let done = Bed::new(2, 1024, 150).file(file.path(), "/guest/rests").script(LOOK);
    assert_eq!(done.status, 0, "{done}");
    // Clock ticks (a hundredth of a second) that the vCPU's thread took in some two seconds.
    let mut ticks = HashMap::new();
    for name in ["host", "polled", "guest", "pit"] {
        let told = done.text(name);
        let story = format!("{name}: {told}{}", done.text(&format!("{name}.errors")));
        for line in told.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [thread, list, user, system] = words[..] else { panic!("four words: {story}") };
            assert_eq!(list, if thread.starts_with("vcpu") { "1" } else { "0" }, "{thread}: {story}");
            if thread == "vcpu0" {
                ticks.insert(name, user.parse::<u32>().unwrap() + system.parse::<u32>().unwrap());
            }
        }
        assert!(told.contains("kvm-nx-lpage-recovery"), "{story}");
        assert_eq!(told.contains("kvm-pit/"), name == "pit", "{story}");
    }
    assert!(
        ticks["guest"] > 100 && ticks["guest"] > 2 * ticks["host"] && ticks["guest"] > 2 * ticks["polled"],
        "{ticks:?}"
    );
}

//! What a start meets around it: a full disk, an environment with no home.

use std::ffi::OsStr;

use crate::guests::{Guest, exit, finish, kvm_works, say};

/// Proves that output which cannot be written is no success and is told of, and that a status which tells of no success
/// already stays.
#[test]
fn output_that_is_lost_is_no_success() {
    if !kvm_works() {
        return;
    }
    for (status, expected) in [(0, 125), (7, 7)] {
        let guest = Guest::new(|a| {
            say(a, "lost\n")?;
            exit(a, status)
        });
        let ran = guest.run(&["--console", "file:/dev/full"]);
        assert_eq!(ran.status, Some(expected), "{}", ran.stderr);
        assert!(ran.stderr.contains("5 bytes") && ran.stderr.contains("/dev/full: No space left"), "{}", ran.stderr);
    }
}

/// Proves that a kernel and an initrd of one's own need no place to keep kernels, as in a service with no HOME.
#[test]
fn a_kernel_of_ones_own_needs_no_cache_folder() {
    if !kvm_works() {
        return;
    }
    let nowhere = ["HOME", "XDG_CACHE_HOME", "RINGFENCE_CACHE"].map(|name| (name, OsStr::new("")));
    let ran = finish(Guest::new(|a| exit(a, 3)).start_with(&[], &nowhere));
    assert_eq!(ran.status, Some(3), "{}", ran.stderr);
}

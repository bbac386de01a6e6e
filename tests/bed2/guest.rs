//! Linux guests run by ringfence inside the bed, and what they say of themselves.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;

use super::Done;

/// Keeps a timer armed in every idle CPU of the guest. QEMU's software emulation loses interrupt shadows (see `shadow.rs`),
/// so now and then a guest halts although the interrupt that it waits for has been; with a periodic tick it wakes again
/// within 1/HZ of a second rather than never.
pub const TICK: &str = "nohz=off";

/// RAM that is not RAM to the guest: the legacy hole from 640 KiB to 1 MiB.
const LEGACY_HOLE: u64 = 0x6_0000;

/// The kernel that comes with ringfence, where one has been built; RINGFENCE_TEST_KERNEL names another in its place.
pub fn default_kernel() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("RINGFENCE_TEST_KERNEL") {
        return Ok(path.into());
    }
    let found = Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["kernel", "path"]).output();
    let found = found.map_err(|error| format!("ringfence kernel path: {error}"))?;
    if found.status.success() {
        return Ok(PathBuf::from(String::from_utf8_lossy(&found.stdout).trim()));
    }
    let said = String::from_utf8_lossy(&found.stderr);
    Err(format!("no default kernel (ringfence kernel build): {}", said.lines().next().unwrap_or_default()))
}

/// The shell commands, for a job, that make an initial RAM file system of L1's busybox at /guest/initrd. Its init prints
/// what the guest sees of its CPUs and RAM as one line of words NAME=VALUE, then does what "end=" on the kernel's
/// command line says: poweroff, reboot, or a letter for /proc/sysrq-trigger.
pub const MAKE_INITRD: &str = r#"
mkdir -p /tmp/initrd/bin /tmp/initrd/dev /tmp/initrd/proc /tmp/initrd/sys && cp /bin/busybox /tmp/initrd/bin/
cat >/tmp/initrd/init <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
/bin/busybox --install -s /bin
ram=0
for range in $(dmesg | sed -n 's/.*BIOS-e820: \[mem \(0x[0-9a-f]*\)-\(0x[0-9a-f]*\)\] usable$/\1,\2/p'); do
    ram=$((ram + ${range#*,} - ${range%,*} + 1))
done
total=$(sed -n 's/^MemTotal: *\([0-9]*\) kB$/\1/p' /proc/meminfo)
packages=$(sort -u /sys/devices/system/cpu/cpu*/topology/physical_package_id | wc -l)
cores=$(sort -u /sys/devices/system/cpu/cpu*/topology/core_id | wc -l)
echo "guest cpus=$(nproc) ram=$ram total=$total packages=$packages cores=$cores clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
sleep 0.2 # the serial driver sends after echo has returned, a reset does not wait for it
for word in $(cat /proc/cmdline); do
    case $word in
    end=poweroff) poweroff -f ;;
    end=reboot) reboot -f ;;
    end=?) echo ${word#end=} >/proc/sysrq-trigger ;;
    esac
done
sleep 1000
INIT
chmod 755 /tmp/initrd/init
(cd /tmp/initrd && find . | cpio -o -H newc) >/guest/initrd 2>/dev/null
"#;

/// A guest of a job: its name in /out, its size and how it ends.
pub struct Guest {
    pub name: &'static str,
    pub kernel: &'static str,
    pub cpus: u32,
    pub memory_mib: u64,
    pub cmdline: &'static str,
    /// Seconds after which ringfence is to give up.
    pub seconds: u32,
}

impl Guest {
    /// The shell command, for a job, that runs the guest and keeps its console, ringfence's own words and the status.
    pub fn job(&self) -> String {
        let Self { name, kernel, cpus, memory_mib, cmdline, seconds } = self;
        format!(
            "ringfence run --kernel {kernel} --initrd /guest/initrd --cpus {cpus} --memory {memory_mib}M --timeout {seconds} \
             --cmdline 'quiet {TICK} {cmdline}' </dev/null >/out/{name}.console 2>/out/{name}.errors; echo $? >/out/{name}.status\n"
        )
    }

    /// Everything the guest left, for a message.
    pub fn story(&self, done: &Done) -> String {
        let Self { name, .. } = self;
        let part = |what: &str| done.text(&format!("{name}.{what}"));
        format!(
            "guest {name}: status {}--- console\n{}\n--- ringfence\n{}",
            part("status"),
            part("console"),
            part("errors")
        )
    }

    /// ringfence's exit status.
    pub fn status(&self, done: &Done) -> i32 {
        done.text(&format!("{}.status", self.name)).trim().parse().expect("a status is a number")
    }

    /// Asserts that userspace ran, on exactly the CPUs and RAM that were asked for.
    pub fn assert_sees_its_machine(&self, done: &Done) {
        let story = self.story(done);
        let console = done.text(&format!("{}.console", self.name));
        let line = console
            .lines()
            .find_map(|l| l.split_once("guest cpus="))
            .unwrap_or_else(|| panic!("no userspace: {story}"));
        let words = format!("cpus={}", line.1);
        let words: HashMap<&str, &str> = words.split_whitespace().filter_map(|w| w.split_once('=')).collect();
        let number = |name: &str| words[name].parse::<u64>().unwrap_or_else(|_| panic!("{name} is no number: {story}"));
        assert_eq!(number("cpus"), u64::from(self.cpus), "CPUs: {story}");
        assert_eq!(number("packages"), 1, "sockets: {story}");
        assert_eq!(number("cores"), u64::from(self.cpus), "cores: {story}");
        let asked = self.memory_mib << 20;
        assert_eq!(number("ram"), asked - LEGACY_HOLE, "RAM in the e820 map: {story}");
        let total = number("total") << 10;
        assert!(total < asked && total > asked * 3 / 5, "MemTotal {total} of {asked}: {story}");
    }
}

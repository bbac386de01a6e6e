//! Each layer by itself, in a process of its own that confines itself and then tries.

use std::fs;
use std::io;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use ringfence::sandbox::{Layers, Sandbox, ThreadKind, landlock_abi};

const SECCOMP: Layers = Layers { seccomp: true, ..Layers::NONE };
const LANDLOCK: Layers = Layers { landlock: true, ..Layers::NONE };
const CAPABILITIES: Layers = Layers { capabilities: true, ..Layers::NONE };

/// An attempt, by name: what it does, and the kernel's answer.
type Attempt = fn() -> io::Result<()>;

const ATTEMPTS: &[(&str, Attempt)] = &[
    ("open", || fs::File::open("/etc/passwd").map(drop)),
    ("list", || fs::read_dir("/").map(drop)),
    ("create", || fs::File::create(std::env::temp_dir().join("ringfence-probe")).map(drop)),
    ("remove", || fs::remove_file(std::env::var_os("RINGFENCE_PROBE_FILE").unwrap())),
    ("execute", || Command::new("/bin/true").status().map(drop)),
    ("connect", || TcpStream::connect(("127.0.0.1", port())).map(drop)),
    ("listen", || TcpListener::bind(("127.0.0.1", 0)).map(drop)),
    // SAFETY: a signal 0 does nothing.
    ("signal another", || result(unsafe { libc::kill(libc::getppid(), 0) }.into())),
    ("abstract socket", abstract_socket),
    // SAFETY: a path that is there; changes only this process.
    ("chroot", || result(unsafe { libc::chroot(c"/".as_ptr()) }.into())),
    ("mount", || {
        let none = std::ptr::null();
        // SAFETY: strings that live as long as the call.
        result(unsafe { libc::mount(c"none".as_ptr(), c"/mnt".as_ptr(), c"tmpfs".as_ptr(), 0, none) }.into())
    }),
    // SAFETY: changes only this thread.
    ("unshare", || result(unsafe { libc::unshare(libc::CLONE_NEWUTS) }.into())),
    // SAFETY: a string that lives as long as the call.
    ("set host name", || result(unsafe { libc::sethostname(c"x".as_ptr(), 1) }.into())),
    // SAFETY: takes numbers only.
    ("raise priority", || result(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, -5) }.into())),
    // SAFETY: takes nothing.
    ("parent", || result(unsafe { libc::syscall(libc::SYS_getppid) }.min(0))),
    ("panic", || panic!("on purpose")),
    ("allocate", || {
        let blocks: Vec<Vec<u8>> = (0..64).map(|i| vec![1; 1 << (i % 20)]).collect();
        let mut grown = vec![0u8; 100_000];
        grown.resize(50_000_000, 1);
        if blocks.len() == 64 && grown[49_999_999] == 1 { Ok(()) } else { Err(io::ErrorKind::Other.into()) }
    }),
];

fn result(value: i64) -> io::Result<()> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn port() -> u16 {
    std::env::var("RINGFENCE_PROBE_PORT").unwrap().parse().unwrap()
}

/// Sends to a datagram socket of the parent's whose name is no file.
fn abstract_socket() -> io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let name = std::env::var("RINGFENCE_PROBE_SOCKET").unwrap();
    let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
    std::os::unix::net::UnixDatagram::unbound()?.send_to_addr(b"x", &address).map(drop)
}

/// What an attempt came to.
#[derive(Debug, PartialEq, Eq)]
enum Came {
    /// The kernel did as it was told.
    Through,
    /// It refused, with this error.
    Refused(i32),
    /// The process was ended; its last words.
    Ended(String),
    /// The process was ended by this signal.
    Killed(i32),
}

/// The process of [`attempt`]: confines a thread as it is told and tries.
#[test]
#[ignore = "run by other tests, in a process of its own"]
fn probe() {
    let Ok(words) = std::env::var("RINGFENCE_PROBE") else { return };
    let [kind, layers, name] = words.split(':').collect::<Vec<_>>().try_into().unwrap();
    let kind = ThreadKind::ALL.into_iter().find(|k| k.to_string() == kind).unwrap();
    let on = |layer: &str| layers.split('+').any(|l| l == layer);
    let layers = Layers { seccomp: on("seccomp"), landlock: on("landlock"), capabilities: on("capabilities") };
    let attempt = ATTEMPTS.iter().find(|(n, _)| *n == name).unwrap().1;
    // SAFETY: as the monitor does at its start; no other thread allocates now.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
    let sandbox = Sandbox::prepare(layers, || {}).unwrap();
    let removable = std::env::var_os("RINGFENCE_PROBE_REMOVABLE").map(Into::into);
    sandbox.complete(removable.as_slice()).unwrap();
    // The monitor's own hook says the panic and ends the process in the same two calls.
    std::panic::set_hook(Box::new(|panic| {
        eprintln!("hook: {panic}");
        // SAFETY: ends the process.
        unsafe { libc::_exit(99) };
    }));
    thread::scope(|scope| {
        scope.spawn(|| {
            sandbox.confine(kind, "probe").unwrap();
            let code = match attempt() {
                Ok(()) => 0,
                Err(error) => error.raw_os_error().map_or(98, |errno| errno.min(97)),
            };
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) };
        });
    });
}

/// Tries something in a thread of `kind` that is confined by `layers`.
fn attempt(kind: ThreadKind, layers: Layers, name: &str, environment: &[(&str, String)]) -> Came {
    let parts = [(layers.seccomp, "seccomp"), (layers.landlock, "landlock"), (layers.capabilities, "capabilities")];
    let words: Vec<_> = parts.iter().filter(|part| part.0).map(|part| part.1).collect();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--ignored", "--nocapture", "layers::probe"])
        .env("RINGFENCE_PROBE", format!("{kind}:{}:{name}", words.join("+")))
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    match output.status.code() {
        Some(0) => Came::Through,
        Some(code @ 1..98) => Came::Refused(code),
        Some(_) => Came::Ended(text),
        None => Came::Killed(std::os::unix::process::ExitStatusExt::signal(&output.status).unwrap_or(0)),
    }
}

/// Proves that landlock alone closes files, programs, TCP and other processes, on every kind of thread, and that without it each
/// attempt goes through.
#[test]
fn landlock_alone() {
    if landlock_abi().is_none_or(|abi| abi < 6) {
        println!("skipped: landlock of version 6 is not in this kernel");
        assert!(std::env::var_os("CI").is_none(), "it must be there in CI");
        return;
    }
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let name = format!("ringfence-test-{}", std::process::id());
    let address =
        <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(&name).unwrap();
    let _socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let environment = [
        ("RINGFENCE_PROBE_PORT", listener.local_addr().unwrap().port().to_string()),
        ("RINGFENCE_PROBE_SOCKET", name),
        ("RINGFENCE_PROBE_FILE", file.to_str().unwrap().to_owned()),
    ];
    let closed = ["open", "list", "create", "remove", "execute", "connect", "listen", "abstract socket"];
    for name in closed {
        for kind in ThreadKind::ALL {
            fs::write(&file, "").unwrap();
            let came = attempt(kind, LANDLOCK, name, &environment);
            assert!(matches!(came, Came::Refused(libc::EACCES | libc::EPERM)), "{kind}: {name}: {came:?}");
        }
        fs::write(&file, "").unwrap();
        assert_eq!(attempt(ThreadKind::Vcpu, Layers::NONE, name, &environment), Came::Through, "{name}");
    }
    for kind in [ThreadKind::Vcpu, ThreadKind::Console] {
        assert_eq!(attempt(kind, LANDLOCK, "signal another", &environment), Came::Refused(libc::EPERM), "{kind}");
    }
    // A folder in which names are removed at the end is the main thread's alone, and for nothing else.
    fs::write(&file, "").unwrap();
    let removable =
        [&environment[..], &[("RINGFENCE_PROBE_REMOVABLE", folder.path().to_str().unwrap().to_owned())]].concat();
    assert_eq!(attempt(ThreadKind::Vcpu, LANDLOCK, "remove", &removable), Came::Refused(libc::EACCES));
    assert_eq!(attempt(ThreadKind::Main, LANDLOCK, "remove", &removable), Came::Through);
    assert!(!file.exists());
}

/// Proves that without capabilities root is nobody in particular.
#[test]
fn capabilities_alone() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root has capabilities to lose");
        assert!(std::env::var_os("CI").is_none(), "tests run as root in CI");
        return;
    }
    for kind in ThreadKind::ALL {
        for name in ["chroot", "mount", "unshare", "set host name", "raise priority"] {
            let came = attempt(kind, CAPABILITIES, name, &[]);
            assert!(matches!(came, Came::Refused(libc::EPERM | libc::EACCES)), "{kind}: {name}: {came:?}");
        }
    }
}

/// Proves that the filter alone stops each of the attempts, with a message, and lets the allocator and a panic's message be.
#[test]
fn seccomp_alone() {
    let environment = [
        ("RINGFENCE_PROBE_PORT", "1".to_owned()),
        ("RINGFENCE_PROBE_SOCKET", "x".to_owned()),
        ("RINGFENCE_PROBE_FILE", "/nonexistent/file".to_owned()),
    ];
    for kind in ThreadKind::ALL {
        for (name, _) in ATTEMPTS {
            let came = attempt(kind, SECCOMP, name, &environment);
            match (*name, &came) {
                ("allocate", came) => assert_eq!(*came, Came::Through, "{kind}"),
                ("panic", Came::Ended(text)) => {
                    assert!(text.contains("hook: ") && text.contains("on purpose"), "{text}")
                }
                // The C library makes programs with all signals blocked, and then there is no message.
                ("execute", came) => assert_eq!(*came, Came::Killed(libc::SIGSYS), "{kind}"),
                // Landlock's business: the main thread may try.
                ("remove", Came::Ended(text)) => assert!(text.contains("the probe thread tried unlink("), "{text}"),
                (_, Came::Ended(text)) => {
                    assert!(text.contains("ringfence: sandbox: the probe thread tried "), "{kind}: {name}: {text}");
                }
                (_, came) => panic!("{kind}: {name}: {came:?}"),
            }
        }
    }
}

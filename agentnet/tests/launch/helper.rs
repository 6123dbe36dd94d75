//! The other sides of the tests: a small `agentnet run`, and the commands it is given.

use std::ffi::OsString;
use std::os::fd::{AsFd, AsRawFd};
use std::process::ExitCode;

use agentnet::agent::launch::{Confinement, Identity, Launch, LaunchError, prepare};
use rustix::io::Errno;
use rustix::process::Pid;

pub(crate) fn main(args: Vec<OsString>) -> ExitCode {
    let mut args = args.into_iter();
    let mode = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match mode.to_str() {
        Some("run") => run(rest, true),
        Some("plain") => run(rest, false),
        Some("abandon") => abandon(rest),
        Some("drop") => drop_pending(rest),
        Some("probe") => probe(&rest),
        Some("int80") => int80(),
        Some("victim") => victim(),
        Some("listen") => listen(),
        _ => panic!("unknown helper {}", mode.display()),
    }
}

/// `[--as UID] [--cgroup DIR] [--bpffs DIR] [--ambient] [--async] -- CMD…`; not `launched`, it is executed without more.
fn run(args: Vec<OsString>, launched: bool) -> ExitCode {
    let mut cgroup = None;
    let mut identity = Identity::of_borrower().unwrap();
    let mut asynchronous = false;
    let mut args = args.into_iter();
    loop {
        let flag = args.next().unwrap();
        match flag.to_str().unwrap() {
            "--as" => {
                let uid = args.next().unwrap().to_str().unwrap().parse().unwrap();
                identity = Some(Identity::look_up(uid, None).unwrap());
            }
            "--ambient" => become_capable_user(),
            "--cgroup" => cgroup = args.next(),
            "--bpffs" => mount_bpffs(&args.next().unwrap()),
            "--async" => asynchronous = true,
            "--" => break,
            other => panic!("{other}"),
        }
    }
    let command = args.next().unwrap();
    if !launched {
        use std::os::unix::process::CommandExt;
        panic!("{}", std::process::Command::new(command).args(args).exec());
    }
    let launch = Launch { command, args: args.collect(), confinement: Confinement::new(identity) };
    let started = prepare(&launch).and_then(|pending| {
        if let Some(cgroup) = &cgroup {
            let procs = std::path::Path::new(cgroup).join("cgroup.procs");
            std::fs::write(procs, pending.pid().as_raw_pid().to_string()).unwrap();
        }
        pending.release()
    });
    let exit = match started {
        Ok(mut running) if asynchronous => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let mut tick = tokio::time::interval(std::time::Duration::from_millis(1));
                loop {
                    tokio::select! {
                        exit = running.exited() => break exit,
                        _ = tick.tick() => {}
                    }
                }
            })
        }
        Ok(mut running) => running.wait(),
        Err(error) => return refused(&error),
    };
    ExitCode::from(exit.unwrap().code())
}

fn refused(error: &LaunchError) -> ExitCode {
    eprintln!("agentnet: {error}");
    ExitCode::from(error.exit_code())
}

fn pending(args: Vec<OsString>) -> agentnet::agent::launch::Pending {
    let mut args = args.into_iter();
    let launch =
        Launch { command: args.next().unwrap(), args: args.collect(), confinement: Confinement::new(None) };
    prepare(&launch).unwrap()
}

/// Prepares the command, says its process id and dies.
fn abandon(args: Vec<OsString>) -> ExitCode {
    let pending = pending(args);
    println!("{}", pending.pid());
    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL).unwrap();
    unreachable!()
}

/// Prepares the command and lets go of it; fails if it then still exists.
fn drop_pending(args: Vec<OsString>) -> ExitCode {
    let pending = pending(args);
    let pid = pending.pid();
    drop(pending);
    match rustix::process::test_kill_process(pid) {
        Err(Errno::SRCH) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// An ordinary user with a capability that every command inherits, as a service manager may make one.
fn become_capable_user() {
    use rustix::thread::{CapabilitySet, CapabilitySets, Uid};
    rustix::thread::set_keep_capabilities(true).unwrap();
    let uid = Uid::from_raw(super::support::NOBODY);
    rustix::thread::set_thread_res_uid(uid, uid, uid).unwrap();
    let all = CapabilitySet::NET_RAW;
    let sets = CapabilitySets { effective: all, permitted: all, inheritable: all };
    rustix::thread::set_capabilities(None, sets).unwrap();
    rustix::thread::configure_capability_in_ambient_set(all, true).unwrap();
}

/// A bpffs with something in it, as an engine has it, in a mount namespace of the helper's own.
fn mount_bpffs(directory: &OsString) {
    use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
    use rustix::thread::{UnshareFlags, unshare_unsafe};
    // SAFETY: descriptors are not unshared.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.unwrap();
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("bpf", directory, "bpf", MountFlags::empty(), None).unwrap();
    std::fs::create_dir(std::path::Path::new(directory).join("pin")).unwrap();
}

/// A call by the numbers of 32-bit x86: getpid.
fn int80() -> ExitCode {
    #[cfg(target_arch = "x86_64")]
    {
        let mut number = 20u64;
        // SAFETY: getpid takes and changes nothing but the result register.
        unsafe {
            std::arch::asm!("int 0x80", inout("rax") number, out("r8") _, out("r9") _, out("r10") _, out("r11") _);
        };
        ExitCode::from(u8::from(number == 0))
    }
    #[cfg(not(target_arch = "x86_64"))]
    ExitCode::SUCCESS
}

/// A process worth taking over: it says that it is ready and waits, and lets anybody of its user trace it.
fn victim() -> ExitCode {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    println!("ready");
    let _ = std::io::stdin().read_line(&mut String::new());
    ExitCode::SUCCESS
}

/// Says the number and origin of each signal it receives; SIGTERM is the last.
fn listen() -> ExitCode {
    // SAFETY: a local set, filled before use, and a local record for the kernel to fill.
    let next = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
        move || {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            (libc::sigwaitinfo(&raw const set, &raw mut info), info.si_code)
        }
    };
    println!("ready");
    loop {
        let (signal, code) = next();
        println!("{signal} from the {}", if code > 0 { "kernel" } else { "launcher" });
        if signal == libc::SIGTERM {
            return ExitCode::from(5);
        }
    }
}

/// Tries each thing named and prints `name=ok` or `name=<error>`.
fn probe(names: &[OsString]) -> ExitCode {
    for name in names {
        let name = name.to_str().unwrap();
        println!("{name}={}", result_name(attempt(name)));
    }
    ExitCode::SUCCESS
}

fn result_name(result: Result<(), Errno>) -> String {
    let Err(errno) = result else { return "ok".to_owned() };
    match errno {
        Errno::PERM => "EPERM".into(),
        Errno::ACCESS => "EACCES".into(),
        Errno::NOSYS => "ENOSYS".into(),
        Errno::AFNOSUPPORT => "EAFNOSUPPORT".into(),
        Errno::ROFS => "EROFS".into(),
        Errno::NOENT => "ENOENT".into(),
        Errno::INVAL => "EINVAL".into(),
        Errno::BADF => "EBADF".into(),
        Errno::BUSY => "EBUSY".into(),
        other => format!("{other:?}"),
    }
}

fn attempt(name: &str) -> Result<(), Errno> {
    let (verb, argument) = name.split_once(':').unwrap_or((name, ""));
    match verb {
        "socket" => socket(argument.parse().unwrap(), 0),
        "socket_high" => socket(argument.parse().unwrap(), 0xdead_0000_0000_0000),
        "socketpair" => socketpair(argument.parse().unwrap()),
        "x32_socket" => call(41 | 0x4000_0000, [argument.parse().unwrap(), 3, 0, 0, 0, 0]),
        "io_uring" => {
            let mut parameters = [0u8; 120];
            call(libc::SYS_io_uring_setup, [1, parameters.as_mut_ptr() as u64, 0, 0, 0, 0])
        }
        "bpf" => {
            // BPF_MAP_CREATE of an array: four-byte keys and values, one entry.
            let mut attributes = [0u32; 32];
            attributes[..4].copy_from_slice(&[2, 4, 4, 1]);
            call(libc::SYS_bpf, [0, attributes.as_ptr() as u64, 128, 0, 0, 0])
        }
        "tiocsti" => ioctl(0x5412),
        "tiocsti_high" => ioctl(0x1_0000_5412),
        "tiocgwinsz" => rustix::termios::tcgetwinsize(rustix::stdio::stdin()).map(drop),
        "seize" => seize(pid(argument)),
        "getfd" => getfd(pid(argument)),
        "kill" => rustix::process::test_kill_process(pid(argument)),
        "follow_root" => rustix::fs::stat(format!("/proc/{argument}/root/")).map(drop),
        "own_child" => own_child(),
        "abstract" => connect(&format!("\0{argument}")),
        "unix" => connect(argument),
        "read" => open(argument, rustix::fs::OFlags::RDONLY),
        "write" => open(argument, rustix::fs::OFlags::WRONLY),
        "mkdir" => {
            rustix::fs::mkdir(argument, rustix::fs::Mode::RWXU)?;
            rustix::fs::rmdir(argument)
        }
        "umount" => rustix::mount::unmount(argument, rustix::mount::UnmountFlags::DETACH),
        "setuid" => rustix::thread::set_thread_uid(rustix::thread::Uid::from_raw(argument.parse().unwrap())),
        other => super::root::attempt(other, argument),
    }
}

fn pid(text: &str) -> Pid {
    Pid::from_raw(text.parse().unwrap()).unwrap()
}

/// A raw system call; a descriptor it returns stays open.
pub(crate) fn call(number: i64, a: [u64; 6]) -> Result<(), Errno> {
    // SAFETY: each caller passes what the call takes, with memory that lives as long.
    match unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) } {
        -1 => Err(Errno::from_io_error(&std::io::Error::last_os_error()).unwrap()),
        _ => Ok(()),
    }
}

/// A raw or stream socket of `family`, with `high` in the upper half of the register.
fn socket(family: u64, high: u64) -> Result<(), Errno> {
    let kind = match i32::try_from(family).unwrap() {
        libc::AF_INET | libc::AF_INET6 | libc::AF_UNIX | libc::AF_VSOCK => libc::SOCK_STREAM,
        libc::AF_ALG => libc::SOCK_SEQPACKET,
        _ => libc::SOCK_RAW,
    };
    call(libc::SYS_socket, [family | high, kind.unsigned_abs().into(), 0, 0, 0, 0])
}

fn socketpair(family: u64) -> Result<(), Errno> {
    let mut pair = [0i32; 2];
    call(libc::SYS_socketpair, [family, 1, 0, pair.as_mut_ptr() as u64, 0, 0])
}

/// `request` is all of the register; TIOCSTI is 0x5412.
fn ioctl(request: u64) -> Result<(), Errno> {
    let byte = b'#';
    call(libc::SYS_ioctl, [0, request, &raw const byte as u64, 0, 0, 0])
}

/// Traces a process for a moment.
fn seize(pid: Pid) -> Result<(), Errno> {
    let pid = pid.as_raw_nonzero().get();
    let ptrace = |request: libc::c_uint| {
        call(libc::SYS_ptrace, [request.into(), pid.unsigned_abs().into(), 0, 0, 0, 0])
    };
    ptrace(libc::PTRACE_SEIZE)?;
    ptrace(libc::PTRACE_INTERRUPT)?;
    rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty())?;
    ptrace(libc::PTRACE_DETACH)
}

fn getfd(pid: Pid) -> Result<(), Errno> {
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty())?;
    rustix::process::pidfd_getfd(pidfd.as_fd(), 0, rustix::process::PidfdGetfdFlags::empty()).map(drop)
}

/// The twin of the refusals: a child of one's own is traced and signalled.
fn own_child() -> Result<(), Errno> {
    let mut child = std::process::Command::new("/bin/sleep").arg("60").spawn().map_err(|_| Errno::IO)?;
    let pid = Pid::from_child(&child);
    let result = seize(pid).and_then(|()| getfd(pid)).and_then(|()| rustix::process::test_kill_process(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    result
}

fn connect(name: &str) -> Result<(), Errno> {
    use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
    let address = match name.strip_prefix('\0') {
        Some(name) => SocketAddrUnix::new_abstract_name(name.as_bytes())?,
        None => SocketAddrUnix::new(name)?,
    };
    let socket = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    connect(&socket, &address)
}

fn open(path: &str, flags: rustix::fs::OFlags) -> Result<(), Errno> {
    let file = rustix::fs::open(path, flags | rustix::fs::OFlags::CLOEXEC, rustix::fs::Mode::empty())?;
    assert!(file.as_raw_fd() >= 0);
    Ok(())
}

//! In vfkit's place on Linux, for tests: takes vfkit's own command line and control, strictly, and runs the very same
//! guest under QEMU, the vsock port as a virtio-serial port behind the same unix socket.
//!
//! What it can't show: Apple's framework, its network, its virtio-fs, its vsock (the guest's end of that is tested by
//! the kernel's loopback). The guest is told `coracle.link=serial`; all else of the command line is as the driver
//! made it.
//!
//! `--known` prints the options it takes, and where vfkit has them. `CORACLE_DOUBLE` injects faults, divided by commas: `entitlement`, `dies`, `hangs` (its guest never runs), `silent` (no control),
//! `deaf` (refuses to stop the guest in order), `empty` (no guest: its control says that one runs).

mod options;
mod rest;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::UnixListener,
    path::Path,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use options::Asked;
use serde_json::{Value, json};

/// Longest path of a socket on macOS.
const SOCKET_PATH: usize = 103;
/// What an unsigned vfkit says (https://github.com/crc-org/vfkit/issues/91).
const NO_ENTITLEMENT: &str = "Error: Error Domain=VZErrorDomain Code=2 Description=\"Invalid virtual machine configuration. The process doesn’t have the “com.apple.security.virtualization” entitlement.\"";

/// The guest, as far as control knows it.
struct Guest {
    state: &'static str,
    monitor: Option<ChildStdin>,
    pid: Option<u32>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("Error: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let faults = std::env::var("CORACLE_DOUBLE").unwrap_or_default();
    let has = |fault: &str| faults.split(',').any(|f| f == fault);
    if std::env::args().nth(1).as_deref() == Some("--known") {
        options::print();
        return Ok(());
    }
    let asked = options::parse(std::env::args().skip(1))?;
    check(&asked)?;
    if has("entitlement") {
        eprintln!("{NO_ENTITLEMENT}");
        std::process::exit(1);
    }
    if has("dies") {
        return Err("Internal Virtualization error. The virtual machine failed to start.".into());
    }
    while has("silent") {
        std::thread::park();
    }
    // As Go's: a file that is there already is in the way.
    let listener = UnixListener::bind(&asked.rest).map_err(|e| format!("listen unix {}: {e}", asked.rest))?;
    let state = if has("hangs") { "VirtualMachineStateStarting" } else { "VirtualMachineStateRunning" };
    let guest = Arc::new(Mutex::new(Guest { state, monitor: None, pid: None }));
    let (mut child, deaf) = (None, has("deaf"));
    if !has("hangs") && !has("empty") {
        let mut qemu = qemu(&asked)?;
        let (input, output) = (qemu.stdin.take().expect("piped"), qemu.stdout.take().expect("piped"));
        std::thread::spawn(move || BufReader::new(output).lines().map_while(Result::ok).for_each(drop));
        let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
        (guest.monitor, guest.pid) = (Some(input), Some(qemu.id()));
        command(&mut guest, "qmp_capabilities")?;
        child = Some(qemu);
    }
    eprintln!("level=info msg=\"virtual machine is running\"");
    std::thread::spawn(move || {
        rest::serve(&listener, |method, path, body| {
            let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
            answer(&mut guest, &asked, deaf, method, path, &body)
        });
    });
    match child {
        Some(mut qemu) => {
            let how = qemu.wait().map_err(|e| e.to_string())?;
            if how.success() { Ok(()) } else { Err(format!("virtualization error: {how}")) }
        }
        None => loop {
            std::thread::park();
        },
    }
}

/// What the framework would refuse.
fn check(asked: &Asked) -> Result<(), String> {
    let kernel = std::fs::read(&asked.kernel).map_err(|e| format!("open {}: {e}", asked.kernel))?;
    // What vfkit takes for an uncompressed kernel begins as a program of DOS does.
    if !kernel.starts_with(b"MZ") {
        return Err(format!("kernel must be uncompressed, {} is a compressed file", asked.kernel));
    }
    let sockets = asked.vsock.iter().map(|(_, path)| path).chain([&asked.rest]);
    for path in sockets {
        if path.len() > SOCKET_PATH {
            return Err(format!("listen unix {path}: bind: invalid argument"));
        }
    }
    let files = asked.disks.iter().chain([&asked.initrd]);
    if let Some(missing) = files.into_iter().find(|path| !Path::new(path).is_file()) {
        return Err(format!("stat {missing}: no such file or directory"));
    }
    for (folder, _) in &asked.shares {
        if !Path::new(folder).is_dir() {
            return Err(format!("{folder} is not a directory"));
        }
    }
    if asked.disks.is_empty() {
        return Err("no disk".into());
    }
    Ok(())
}

fn answer(
    guest: &mut Guest,
    asked: &Asked,
    is_deaf: bool,
    method: &str,
    path: &str,
    body: &Value,
) -> rest::Answer {
    match (method, path) {
        ("GET", "/vm/state") => {
            let running = guest.state.ends_with("Running");
            let paused = guest.state.ends_with("Paused");
            (
                200,
                json!({ "state": guest.state, "canStart": false, "canPause": running, "canResume": paused,
                        "canStop": running, "canHardStop": running || paused }),
            )
        }
        ("GET", "/vm/inspect") => {
            (200, json!({ "cpus": asked.cpus, "memory": asked.memory_mib, "devices": {} }))
        }
        ("POST", "/vm/state") => match change(guest, is_deaf, body["state"].as_str().unwrap_or_default()) {
            Ok(()) => (202, Value::Null),
            Err(why) => rest::refused(500, &why),
        },
        _ => rest::refused(404, "404 page not found"),
    }
}

fn change(guest: &mut Guest, is_deaf: bool, wanted: &str) -> Result<(), String> {
    match wanted {
        "Pause" if guest.state.ends_with("Running") => {
            command(guest, "stop")?;
            guest.state = "VirtualMachineStatePaused";
        }
        "Resume" if guest.state.ends_with("Paused") => {
            command(guest, "cont")?;
            guest.state = "VirtualMachineStateRunning";
        }
        "Stop" if is_deaf => return Err("the guest can't be asked to stop".into()),
        "Stop" if guest.state.ends_with("Running") => match guest.pid {
            Some(_) => command(guest, "system_powerdown")?,
            None => std::process::exit(0),
        },
        "HardStop" => match guest.pid {
            Some(_) => command(guest, "quit")?,
            None => std::process::exit(0),
        },
        "Pause" | "Resume" | "Stop" => {
            return Err(format!("Invalid virtual machine state transition from {}", guest.state));
        }
        other => return Err(format!("invalid new VMState: {other}")),
    }
    Ok(())
}

/// One of QEMU's, over its standard input.
fn command(guest: &mut Guest, name: &str) -> Result<(), String> {
    let Some(monitor) = &mut guest.monitor else { return Ok(()) };
    writeln!(monitor, "{}", json!({ "execute": name })).map_err(|e| e.to_string())
}

/// The same guest under QEMU, which ends with this program.
fn qemu(asked: &Asked) -> Result<Child, String> {
    let program = std::env::var("CORACLE_QEMU").map_err(|_| "CORACLE_QEMU is not set".to_owned())?;
    if !asked.shares.is_empty() {
        return Err("this double has no virtio-fs".into());
    }
    let path = |text: &str| text.replace(',', ",,");
    let mut line: Vec<String> =
        ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned).to_vec();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    add("-machine", "q35".into());
    add("-accel", "tcg,thread=multi".into());
    add("-cpu", "max,-erms,-fsrm,-fsrs".into());
    add("-smp", asked.cpus.to_string());
    add("-m", format!("{}M", asked.memory_mib));
    add("-kernel", asked.kernel.clone());
    add("-initrd", asked.initrd.clone());
    add("-append", format!("{} coracle.link=serial", asked.cmdline));
    for (n, disk) in asked.disks.iter().enumerate() {
        add("-drive", format!("if=none,id=disk{n},format=raw,file={}", path(disk)));
        add("-device", format!("virtio-blk-pci,drive=disk{n}"));
    }
    add("-device", "virtio-serial-pci".into());
    if let Some(log) = &asked.console {
        // Begun anew, as vfkit does.
        std::fs::write(log, "").map_err(|e| format!("open {log}: {e}"))?;
        add("-chardev", format!("file,id=console,path={}", path(log)));
        add("-device", "virtconsole,chardev=console".into());
    }
    if let Some((port, socket)) = &asked.vsock {
        if Path::new(socket).exists() {
            eprintln!("level=warning msg=\"error exposing vsock port {port}: bind: address already in use\"");
        } else {
            add("-chardev", format!("socket,id=link,server=on,wait=off,path={}", path(socket)));
            add("-device", "virtserialport,chardev=link,name=org.coracle.link".into());
        }
    }
    if let Some(mac) = &asked.mac {
        add("-netdev", "user,id=net".into());
        add("-device", format!("virtio-net-pci,netdev=net,romfile=,mac={mac}"));
    }
    add("-device", "virtio-rng-pci".into());
    add("-qmp", "stdio".into());
    let mut command = Command::new(program);
    command.args(line).stdin(Stdio::piped()).stdout(Stdio::piped());
    end_with_us(&mut command);
    command.spawn().map_err(|e| e.to_string())
}

/// A guest ends with its vfkit, however that ends.
#[allow(unsafe_code)]
fn end_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            let kill = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(kill).map_err(Into::into)
        });
    }
}

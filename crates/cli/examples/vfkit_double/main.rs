//! In the place of vfkit, krunkit and gvproxy, for tests: whose place it takes is said by the name it is run by.
//! Takes the program's own command line and control, strictly, and runs the very same guest under QEMU, the vsock port as
//! a virtio-serial port behind the same unix socket.
//!
//! What it can't show: Apple's frameworks, their network, their virtio-fs, their vsock (the guest's end of that is tested
//! by the kernel's loopback). The guest is told `coracle.link=serial`; all else of the command line is as the driver
//! made it. As krunkit it boots by firmware, from the disk that the driver made; as gvproxy it takes a guest's hello and
//! nothing more: the guest's network is QEMU's.
//!
//! `--known` prints the options it takes, and where the programs have them. `CORACLE_DOUBLE` injects faults, divided by
//! commas: `entitlement`, `dies`, `hangs` (its guest never runs), `silent` (no control), `deaf` (refuses to stop the guest
//! in order), `empty` (no guest: its control says that one runs), `offline` (gvproxy ends at once). With `empty` it runs on a
//! Mac as well; guests it runs on Linux alone.

mod options;
mod rest;

use std::{
    io::{BufRead, BufReader, Write},
    os::unix::net::{UnixDatagram, UnixListener},
    path::Path,
    process::{Child, ChildStdin, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, PoisonError},
};

use options::{Asked, GVPROXY, KRUNKIT, Table, VFKIT};
use serde_json::{Value, json};

/// Longest path of a socket on macOS.
const SOCKET_PATH: usize = 103;
/// What an unsigned vfkit says (https://github.com/crc-org/vfkit/issues/91).
const NO_ENTITLEMENT: &str = "Error: Error Domain=VZErrorDomain Code=2 Description=\"Invalid virtual machine configuration. The process doesn’t have the “com.apple.security.virtualization” entitlement.\"";

/// Time in which a folder must be served.
const SERVES: std::time::Duration = std::time::Duration::from_secs(10);
/// What a guest's hypervisor says to gvproxy first (its pkg/transport/unixgram_unix.go).
const HELLO: &[u8] = b"VFKT";

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
    let name = std::env::args().next().unwrap_or_default();
    let name = Path::new(&name).file_name().unwrap_or_default().to_string_lossy();
    if name == "gvproxy" {
        return gvproxy(std::env::args().skip(1), has("offline"));
    }
    let is_krunkit = name == "krunkit";
    let table: &Table = if is_krunkit { &KRUNKIT } else { &VFKIT };
    let asked = options::parse(table, std::env::args().skip(1))?;
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
    if is_krunkit {
        let _ = std::fs::remove_file(&asked.rest); // it takes what is there away
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
        let end = if is_krunkit { rest::End::Null } else { rest::End::Length };
        rest::serve(&listener, end, |method, path, body| {
            let mut guest = guest.lock().unwrap_or_else(PoisonError::into_inner);
            match is_krunkit {
                true => krunkit_answer(&mut guest, deaf, method, path, &body),
                false => answer(&mut guest, &asked, deaf, method, path, &body),
            }
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
    // What vfkit takes for an uncompressed kernel begins as a program of DOS does.
    if !asked.kernel.is_empty() {
        let kernel = std::fs::read(&asked.kernel).map_err(|e| format!("open {}: {e}", asked.kernel))?;
        if !kernel.starts_with(b"MZ") {
            return Err(format!("kernel must be uncompressed, {} is a compressed file", asked.kernel));
        }
    }
    if let Some(socket) = &asked.network {
        let network = UnixDatagram::unbound().and_then(|ours| ours.send_to(HELLO, socket));
        network.map_err(|e| format!("unable to set virtio-net socket {socket}: {e}"))?;
    }
    let sockets = asked.vsock.iter().map(|(_, path)| path).chain([&asked.rest]);
    for path in sockets {
        if path.len() > SOCKET_PATH {
            return Err(format!("listen unix {path}: bind: invalid argument"));
        }
    }
    let files = asked.disks.iter().chain([&asked.initrd]).filter(|path| !path.is_empty());
    let mut files = files.map(String::as_str);
    if let Some(missing) = files.find(|path| !Path::new(path).is_file()) {
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

/// krunkit's control (src/status.rs@30e234da9cf5): it knows no pause, and one kind of stop.
fn krunkit_answer(guest: &mut Guest, is_deaf: bool, method: &str, path: &str, body: &Value) -> rest::Answer {
    let state = |state: &str, can_stop: bool| {
        json!({ "state": format!("VirtualMachineState{state}"), "canStart": false, "canPause": false,
                "canResume": false, "canStop": can_stop, "canHardStop": can_stop })
    };
    match (method, path, body["state"].as_str()) {
        ("GET", "/vm/state", _) if guest.state.ends_with("Running") => (200, state("Running", true)),
        ("GET", "/vm/state", _) => (200, state("Stopping", false)),
        ("POST", "/vm/state", Some("Stop" | "HardStop")) => {
            // What the guest makes of it is the guest's.
            if !is_deaf {
                match guest.pid {
                    Some(_) => drop(command(guest, "system_powerdown")),
                    None => std::process::exit(0),
                }
            }
            guest.state = "VirtualMachineStateStopping";
            (200, state("Stopping", false))
        }
        ("POST", "/vm/state", Some(other)) => {
            rest::refused(400, &format!("unsupported state change: {other}"))
        }
        ("POST", "/vm/state", None) => rest::refused(400, "missing or invalid 'state' field"),
        _ => (404, Value::Null),
    }
}

/// gvproxy: listens where it is told, and takes what comes.
fn gvproxy(mut words: impl Iterator<Item = String>, ends: bool) -> Result<(), String> {
    let mut socket = None;
    while let Some(flag) = words.next() {
        if !GVPROXY.iter().any(|known| known.0 == flag) {
            return Err(format!("flag provided but not defined: {flag}"));
        }
        let value = words.next().ok_or_else(|| format!("flag needs an argument: {flag}"))?;
        match flag.as_str() {
            "-listen-vfkit" => {
                let path = value.strip_prefix("unixgram://");
                let path = path.ok_or("vfkit listen address must be unixgram:// address")?;
                socket = Some(path.to_owned());
            }
            "-ssh-port" if value == "-1" => {}
            _ => return Err("ssh-port value must be between 1024 and 65535".into()),
        }
    }
    let socket = socket.ok_or("this double listens for guests as vfkit has them alone")?;
    if ends {
        return Err("listen unixgram: operation not permitted".into());
    }
    if Path::new(&socket).exists() {
        return Err(format!("{socket:?} already exists"));
    }
    let frames = UnixDatagram::bind(&socket).map_err(|e| e.to_string())?;
    let mut frame = [0; 2048];
    loop {
        let len = frames.recv(&mut frame).map_err(|e| e.to_string())?;
        eprintln!("level=info msg=\"{} bytes from a guest\"", len);
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
    let shares = shares(asked)?;
    // How kernels of arm64 begin (Documentation/arch/arm64/booting.rst).
    let is_arm = std::fs::read(&asked.kernel).is_ok_and(|kernel| kernel.get(56..60) == Some(b"ARMd"));
    let (machine, cpu) = if is_arm { ("virt", "cortex-a72") } else { ("q35", "max,-erms,-fsrm,-fsrs") };
    let path = |text: &str| text.replace(',', ",,");
    let mut line: Vec<String> =
        ["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"].map(str::to_owned).to_vec();
    let mut add = |option: &str, value: String| line.extend([option.to_owned(), value]);
    add("-machine", format!("{machine},memory-backend=memory"));
    // Of a kind that a process which serves a folder can map.
    add("-object", format!("memory-backend-memfd,id=memory,size={}M,share=on", asked.memory_mib));
    add("-accel", "tcg,thread=multi".into());
    add("-cpu", cpu.into());
    add("-smp", asked.cpus.to_string());
    add("-m", format!("{}M", asked.memory_mib));
    let mut disks = asked.disks.clone();
    if asked.kernel.is_empty() {
        let firmware = std::env::var("CORACLE_DOUBLE_FIRMWARE");
        add("-bios", firmware.map_err(|_| "CORACLE_DOUBLE_FIRMWARE is not set".to_owned())?);
        disks[0] = serial_link(&disks[0]).map_err(|e| format!("{}: {e}", disks[0]))?;
    } else {
        add("-kernel", asked.kernel.clone());
        add("-initrd", asked.initrd.clone());
        add("-append", format!("{} coracle.link=serial", asked.cmdline));
    }
    for (n, disk) in disks.iter().enumerate() {
        // A write that finds no room fails for the guest; QEMU by itself would stop it.
        add("-drive", format!("if=none,id=disk{n},format=raw,werror=report,file={}", path(disk)));
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
    for (tag, socket) in shares {
        add("-chardev", format!("socket,id={tag},path={}", path(&socket)));
        add("-device", format!("vhost-user-fs-pci,queue-size=1024,chardev={tag},tag={tag}"));
    }
    add("-device", "virtio-rng-pci".into());
    add("-qmp", "stdio".into());
    let mut command = Command::new(program);
    command.args(line).stdin(Stdio::piped()).stdout(Stdio::piped());
    end_with_us(&mut command)?;
    command.spawn().map_err(|e| e.to_string())
}

/// Serves the folders, Rosetta's among them, each by the program that `CORACLE_DOUBLE_SHARE` names; tags and sockets.
fn shares(asked: &Asked) -> Result<Vec<(String, String)>, String> {
    let mut folders = asked.shares.clone();
    if let Some(tag) = &asked.rosetta {
        let folder = std::env::var("CORACLE_DOUBLE_ROSETTA").map_err(|_| "rosetta is not installed")?;
        folders.push((folder, tag.clone()));
    }
    let mut served = Vec::new();
    for (folder, tag) in folders {
        let program = std::env::var("CORACLE_DOUBLE_SHARE").map_err(|_| "this double has no virtio-fs")?;
        let socket = asked.rest.replace("rest.sock", &format!("{tag}.sock"));
        let _ = std::fs::remove_file(&socket);
        let mut share = Command::new(program);
        share.args(["--socket", &socket, "--folder", &folder, "--changes", &format!("{socket}.changes")]);
        share.args(["--requests", &format!("{socket}.requests")]);
        end_with_us(&mut share)?;
        share.spawn().map_err(|e| e.to_string())?;
        let since = std::time::Instant::now();
        while !Path::new(&socket).exists() {
            if since.elapsed() > SERVES {
                return Err(format!("{folder} is not served"));
            }
            std::thread::yield_now(); // it makes its socket when it likes
        }
        served.push((tag, socket));
    }
    Ok(served)
}

/// A copy of the disk that firmware boots from, on which the guest is told of another link: in as many bytes.
fn serial_link(disk: &str) -> std::io::Result<String> {
    const ASKED: &[u8] = b"coracle.link=vsock:1024";
    const OURS: &[u8] = b"coracle.link=serial    ";
    let mut bytes = std::fs::read(disk)?;
    let found = bytes.windows(ASKED.len()).position(|window| window == ASKED);
    let at = found.ok_or_else(|| std::io::Error::other("it doesn't say where the link is"))?;
    bytes[at..at + OURS.len()].copy_from_slice(OURS);
    let copy = format!("{disk}.double");
    std::fs::write(&copy, bytes)?;
    Ok(copy)
}

/// A guest ends with its vfkit, however that ends.
#[cfg(target_os = "linux")]
#[allow(unsafe_code)]
fn end_with_us(command: &mut Command) -> Result<(), String> {
    use std::os::unix::process::CommandExt;
    // SAFETY: prctl is async-signal-safe and touches nothing of the parent.
    unsafe {
        command.pre_exec(|| {
            let kill = Some(rustix::process::Signal::KILL);
            rustix::process::set_parent_process_death_signal(kill).map_err(Into::into)
        });
    }
    Ok(())
}

/// Nothing else could end a guest with one that is killed.
#[cfg(not(target_os = "linux"))]
fn end_with_us(_: &mut Command) -> Result<(), String> {
    Err("this double runs guests on Linux alone".into())
}

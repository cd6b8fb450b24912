//! The service behind the double: distributions as folders.
//!
//! ```text
//! FOLDER/NAME/root          its root
//! FOLDER/NAME/registered    the folder of its disk, as it was told; made last, as the real one registers last
//! ```

use std::{
    collections::HashMap,
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, ExitCode, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};
use serde_json::Value;

use crate::{
    ERR, EXIT, FAILED, OUT, WORDS,
    options::{self, Asked},
};

const DONE: &str = "Der Vorgang wurde erfolgreich beendet.\r\n";

/// Distributions that run: their PID 1.
type Running = Arc<Mutex<HashMap<String, Instance>>>;

struct Instance {
    unshare: Child,
    pid: u32,
}

impl Drop for Instance {
    fn drop(&mut self) {
        // With `unshare` goes PID 1 (--kill-child), with it all the rest.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// Serves until standard input ends.
pub fn serve(folder: &Path) -> ExitCode {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    println!("{}", listener.local_addr().expect("an address"));
    // From here on this and its children are in the network of all distributions; the listener stays in its own.
    unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace: this wants root");
    run("ip", &["link", "set", "lo", "up"]).ok();
    let running = Running::default();
    std::thread::spawn({
        let (running, folder) = (running.clone(), folder.to_owned());
        move || {
            for client in listener.incoming().flatten() {
                let (running, folder) = (running.clone(), folder.clone());
                std::thread::spawn(move || {
                    if let Err(error) = client_of(client, &folder, &running) {
                        eprintln!("a client: {error}");
                    }
                });
            }
        }
    });
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    held(&running).clear();
    ExitCode::SUCCESS
}

fn held(running: &Running) -> MutexGuard<'_, HashMap<String, Instance>> {
    running.lock().unwrap_or_else(PoisonError::into_inner)
}

fn client_of(client: TcpStream, folder: &Path, running: &Running) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut reader = BufReader::new(client.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let asked: Value = serde_json::from_str(&line)?;
    let faults = asked["faults"].as_str().unwrap_or_default().to_owned();
    let has = |fault: &str| faults.split(',').any(|f| f == fault);
    let args: Vec<String> = asked["args"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    let to = Arc::new(Mutex::new(client));
    let answer = match options::parse(&args) {
        _ if has("off") => Err((
            "Starten Sie wsl.exe --install --no-distribution.".to_owned(),
            "Wsl/Service/CreateInstance/CreateVm/HCS/HCS_E_HYPERV_NOT_INSTALLED",
        )),
        Ok(Asked::List { running: only }) => {
            let mut names = registered(folder);
            names.retain(|name| !only || held(running).contains_key(name));
            Ok(names.iter().map(|name| format!("{name}\r\n")).collect())
        }
        Ok(Asked::Import { name, folder: disk, archive }) => {
            import(folder, &name, &disk, &archive, has("import"), has("cut")).map(|()| DONE.to_owned())
        }
        Ok(Asked::Terminate(_)) if has("deaf") => Err(("Fehler.".into(), "Wsl/Service/E_UNEXPECTED")),
        Ok(Asked::Terminate(name)) => known(folder, &name).map(|_| {
            held(running).remove(&name);
            DONE.to_owned()
        }),
        Ok(Asked::Unregister(name)) => known(folder, &name).map(|at| {
            held(running).remove(&name);
            let disk = fs::read_to_string(at.join("registered")).unwrap_or_default();
            let _ = fs::remove_file(Path::new(&disk).join("ext4.vhdx"));
            fs::remove_dir_all(&at).expect("its own folder");
            DONE.to_owned()
        }),
        Ok(Asked::Exec { name, mut words }) => match known(folder, &name) {
            Ok(at) => {
                let what = words.get(1).map(String::as_str).unwrap_or_default();
                match what {
                    "unpack" if has("unpack") => words = vec!["/usr/bin/busybox".into(), "false".into()],
                    "hosted" if has("dies") => words = vec!["/usr/bin/busybox".into(), "false".into()],
                    "hosted" if has("mute") => {
                        words = ["/usr/bin/busybox", "sleep", "1000"].map(str::to_owned).to_vec();
                    }
                    _ => {}
                }
                let pid = entered(running, &name, &at, folder)?;
                return exec(pid, &words, reader, &to);
            }
            Err(error) => Err(error),
        },
        Err(_) => Err(("Ungültige Befehlszeile.".into(), "Wsl/E_INVALIDARG")),
    };
    let (words, code) = match answer {
        Ok(words) => (words, 0),
        Err((words, code)) => (format!("{words}\r\nFehlercode: {code}\r\n"), FAILED),
    };
    send(&to, WORDS, words.as_bytes())?;
    send(&to, EXIT, &code.to_le_bytes())?;
    // What the client still says is read: a socket closed over it would take the answer along.
    std::io::copy(&mut reader, &mut std::io::sink()).map(drop)
}

fn send(to: &Mutex<TcpStream>, kind: u8, bytes: &[u8]) -> std::io::Result<()> {
    let mut piece = vec![kind];
    piece.extend((bytes.len() as u32).to_le_bytes());
    piece.extend(bytes);
    to.lock().unwrap_or_else(PoisonError::into_inner).write_all(&piece)
}

type Refused = (String, &'static str);

fn registered(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries
        .filter(|entry| entry.path().join("registered").is_file())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

fn known(folder: &Path, name: &str) -> Result<PathBuf, Refused> {
    if registered(folder).iter().any(|known| known == name) {
        return Ok(folder.join(name));
    }
    Err((
        "Es ist keine Distribution mit dem angegebenen Namen vorhanden.".into(),
        "Wsl/Service/WSL_E_DISTRO_NOT_FOUND",
    ))
}

fn import(
    folder: &Path,
    name: &str,
    disk: &str,
    archive: &str,
    is_refused: bool,
    is_cut: bool,
) -> Result<(), Refused> {
    let refused = |words: &str, code| Err((words.to_owned(), code));
    if is_refused {
        return refused(
            "Auf dem Datenträger ist nicht genügend Speicherplatz.",
            "Wsl/Service/RegisterDistro/ERROR_DISK_FULL",
        );
    }
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if name.is_empty() || !name.chars().all(plain) {
        return refused("Falscher Parameter.", "Wsl/Service/RegisterDistro/E_INVALIDARG");
    }
    if known(folder, name).is_ok() || Path::new(disk).join("ext4.vhdx").exists() {
        return refused(
            "Die Datei ist bereits vorhanden.",
            "Wsl/Service/RegisterDistro/ERROR_ALREADY_EXISTS",
        );
    }
    if !Path::new(disk).is_dir() || !Path::new(archive).is_file() {
        return refused("Das System kann den angegebenen Pfad nicht finden.", "Wsl/ERROR_PATH_NOT_FOUND");
    }
    let at = folder.join(name);
    let _ = fs::remove_dir_all(&at);
    fs::create_dir_all(at.join("root")).expect("its own folder");
    if is_cut {
        return refused(
            "Der RPC-Server ist nicht verfügbar.",
            "Wsl/Service/RegisterDistro/RPC_S_SERVER_UNAVAILABLE",
        );
    }
    if run("tar", &["-xzf", archive, "-C", &at.join("root").display().to_string()]).is_err() {
        return refused("Fehler beim Entpacken.", "Wsl/Service/RegisterDistro/WSL_E_IMPORT_FAILED");
    }
    fs::write(Path::new(disk).join("ext4.vhdx"), "").expect("the disk's folder");
    fs::write(at.join("registered"), disk).expect("its own folder");
    Ok(())
}

fn run(program: &str, args: &[&str]) -> Result<(), String> {
    let done = Command::new(program).args(args).stdin(Stdio::null()).status().map_err(|e| e.to_string())?;
    if done.success() { Ok(()) } else { Err(format!("{program}: {done}")) }
}

/// The PID 1 of a distribution, started where it doesn't run.
fn entered(running: &Running, name: &str, at: &Path, folder: &Path) -> std::io::Result<u32> {
    let mut running = held(running);
    if let Some(instance) = running.get_mut(name) {
        if instance.unshare.try_wait()?.is_none() {
            return Ok(instance.pid);
        }
        running.remove(name);
    }
    let mut unshare = Command::new("unshare")
        .args(["--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"])
        .arg(std::env::current_exe()?)
        .arg("init")
        .args([&at.join("root"), folder])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    // It says when it is ready.
    let mut line = String::new();
    BufReader::new(unshare.stdout.take().expect("piped")).read_line(&mut line)?;
    let of = unshare.id();
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children"))?;
    let pid = children.trim().parse().map_err(std::io::Error::other)?;
    running.insert(name.to_owned(), Instance { unshare, pid });
    Ok(pid)
}

/// PID 1 of a distribution: what WSL mounts, then nothing until standard input ends.
pub fn init(root: &Path, folder: &str) -> ExitCode {
    let none = None::<&str>;
    let at = |place: &str| root.join(place);
    let new = |kind: &str, place: &str| {
        mount(Some(kind), &at(place), Some(kind), MsFlags::empty(), none)
            .unwrap_or_else(|e| panic!("mounting {kind} at {place}: {e}"));
    };
    mount(Some(root), root, none, MsFlags::MS_BIND, none).expect("binding the root");
    new("proc", "proc");
    new("sysfs", "sys");
    new("cgroup2", "sys/fs/cgroup");
    new("devtmpfs", "dev");
    new("tmpfs", "run");
    new("tmpfs", "tmp");
    // The machine's own limits are none of a test's.
    for place in ["proc/sys/vm", "proc/sys/fs", "proc/sys/kernel"] {
        mount(Some(&at(place)), &at(place), none, MsFlags::MS_BIND, none).expect("binding");
        let flags = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, &at(place), none, flags, none).expect("protecting");
    }
    // Drive Z, as wine has it, but nothing of it outside of the test's own folder.
    let drive = at("mnt/z").join(folder.trim_start_matches('/'));
    fs::create_dir_all(&drive).expect("the drive");
    mount(Some(Path::new(folder)), &drive, none, MsFlags::MS_BIND, none).expect("binding the drive");
    // As WSL writes it: a link that leads out of the distribution.
    let _ = fs::remove_file(at("etc/resolv.conf"));
    let _ = std::os::unix::fs::symlink("/mnt/wsl/resolv.conf", at("etc/resolv.conf"));
    std::env::set_current_dir(root).expect("the root");
    nix::unistd::pivot_root(".", ".").expect("entering the root");
    umount2(".", MntFlags::MNT_DETACH).expect("leaving the old root");
    println!("ready");
    // Orphans are the kernel's to reap: nobody here asks how they ended.
    // SAFETY: ignoring a signal runs no code of ours.
    #[allow(unsafe_code)]
    unsafe {
        let ignore = nix::sys::signal::SigHandler::SigIgn;
        let _ = nix::sys::signal::signal(nix::sys::signal::Signal::SIGCHLD, ignore);
    }
    let _ = std::io::stdin().lock().read_to_end(&mut Vec::new());
    ExitCode::SUCCESS
}

/// Runs a program in a distribution, its streams the client's. It hangs up when the client is gone.
fn exec(
    pid: u32,
    words: &[String],
    mut from: BufReader<TcpStream>,
    to: &Arc<Mutex<TcpStream>>,
) -> std::io::Result<()> {
    let mut child = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-m", "-p", "-r", "-w", "--"])
        .args(words)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    let group = child.id();
    let mut input = child.stdin.take();
    let over = Arc::new(Mutex::new(false));
    let ended = over.clone();
    std::thread::spawn(move || {
        loop {
            let mut len = [0; 4];
            if from.read_exact(&mut len).is_err() {
                break;
            }
            let mut piece = vec![0; u32::from_le_bytes(len) as usize];
            if from.read_exact(&mut piece).is_err() {
                break;
            }
            if piece.is_empty() {
                input = None;
            } else if let Some(pipe) = &mut input
                && pipe.write_all(&piece).and_then(|()| pipe.flush()).is_err()
            {
                input = None;
            }
        }
        drop(input);
        if !*ended.lock().unwrap_or_else(PoisonError::into_inner) {
            let _ = run("kill", &["-HUP", "--", &format!("-{group}")]);
        }
    });
    let (out, err) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let pumps = [
        std::thread::spawn({
            let to = to.clone();
            move || pump(out, &to, OUT)
        }),
        std::thread::spawn({
            let to = to.clone();
            move || pump(err, &to, ERR)
        }),
    ];
    let code = child.wait()?.code().unwrap_or(FAILED);
    *over.lock().unwrap_or_else(PoisonError::into_inner) = true;
    for pump in pumps {
        let _ = pump.join();
    }
    send(to, EXIT, &code.to_le_bytes())
}

fn pump(mut from: impl Read, to: &Mutex<TcpStream>, kind: u8) {
    let mut bytes = vec![0; 32 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        if send(to, kind, &bytes[..n]).is_err() {
            return;
        }
    }
}

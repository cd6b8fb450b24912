//! A machine of a test's own: its home, `coracle` as an ordinary user, and requests through its sockets.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    net::{Shutdown, TcpStream},
    os::unix::{
        fs::{PermissionsExt, chown},
        net::UnixStream,
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, geteuid, kill_process, test_kill_process};
use serde_json::{Value, json};

use crate::hypervisor::{Hypervisor, arch, guest, guests, named, own_arch, qemu};

/// The ordinary user that root becomes here: nobody's.
pub const USER: u32 = 64_123;
/// Longest a guest may take to something.
pub const LIMIT: Duration = Duration::from_secs(90);

/// Two processors: one guest at a time, whichever of our test programs boots it (the end-to-end tests wait for their turn
/// at the same file). It ends with the process at the latest.
fn turn() -> fs::File {
    fs::create_dir_all(target()).unwrap();
    let file = fs::File::create(target().join("guest.turn")).unwrap();
    file.lock().unwrap();
    file
}

/// True when every test is to run, however long it takes.
pub fn is_full() -> bool {
    std::env::var_os("CORACLE_TEST_FULL").is_some()
}

pub struct Machine {
    pub home: PathBuf,
    pub env: Vec<(String, String)>,
    /// What is behind WSL's double.
    pub service: Option<Service>,
    _turn: fs::File,
}

/// Whether this is root that can become another user: one who reaches the programs. In a checkout whose folders are
/// closed to others it says so and stays root.
pub fn becomes_user() -> bool {
    let root = geteuid().is_root();
    let closed = target().canonicalize().ok().and_then(|path| {
        let is_closed =
            |dir: &&Path| fs::metadata(dir).is_ok_and(|meta| meta.permissions().mode() & 0o001 == 0);
        path.ancestors().find(is_closed).map(Path::to_owned)
    });
    if let (true, Some(dir)) = (root, &closed) {
        println!("runs as root: {} is closed to other users", dir.display());
    }
    root && closed.is_none()
}

pub fn target() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target")
}

/// Where the machine of a test lives: short, for a socket's path has 103 bytes at most.
pub fn home_of(name: &str) -> PathBuf {
    PathBuf::from(format!("/tmp/cm-{name}-{}", std::process::id()))
}

/// A home of its own, or `None` with the reason printed when what it needs is not there.
pub fn machine(name: &str) -> Option<Machine> {
    machine_under(name, Hypervisor::usual())
}

/// The same under a hypervisor.
pub fn machine_under(name: &str, hypervisor: Hypervisor) -> Option<Machine> {
    if hypervisor == Hypervisor::Wsl {
        return wsl_machine(name);
    }
    machine_on(name, hypervisor, |_| ())
}

/// A home of its own with nothing set.
pub fn bare_machine(name: &str) -> Machine {
    bare_machine_on(name, |_| ())
}

fn bare_machine_on(name: &str, prepare: impl FnOnce(&Path)) -> Machine {
    let turn = turn();
    let home = home_of(name);
    let _ = fs::remove_dir_all(&home);
    fs::create_dir(&home).unwrap();
    prepare(&home);
    if becomes_user() {
        chown(&home, Some(USER), Some(USER)).unwrap();
    }
    let mut machine = Machine { home, env: Vec::new(), service: None, _turn: turn };
    machine.set("CORACLE_ARCH", arch());
    machine
}

/// vfkit's double: an example of this package.
pub fn vfkit_double() -> PathBuf {
    example("vfkit_double")
}

/// The same in the place of krunkit and gvproxy: by their names.
pub fn in_krunkits_place(machine: &mut Machine) {
    let double = vfkit_double();
    for (name, variable) in [("krunkit", "CORACLE_KRUNKIT"), ("gvproxy", "CORACLE_GVPROXY")] {
        let link = machine.home.join(name);
        std::os::unix::fs::symlink(&double, &link).unwrap();
        machine.set(variable, &link.display().to_string());
    }
    if let Ok(firmware) = fs::canonicalize(target().join("tools/firmware.fd")) {
        machine.set("CORACLE_DOUBLE_FIRMWARE", &firmware.display().to_string());
    }
}

fn example(name: &str) -> PathBuf {
    let coracle = Path::new(env!("CARGO_BIN_EXE_coracle"));
    let example = coracle.parent().expect("a folder").join("examples").join(name);
    // `cargo test --test machine` builds none.
    fs::canonicalize(example).unwrap_or_else(|e| panic!("{name}: {e} (run `cargo build -p cli --examples`)"))
}

/// The service behind WSL's double, with a folder of its own; it ends with this value.
pub struct Service {
    child: Child,
    pub folder: PathBuf,
    pub address: String,
}

impl Service {
    fn start(name: &str) -> Self {
        let folder = PathBuf::from(format!("/tmp/cw-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        let mut child = Command::new(example("wsl_double"))
            .arg("serve")
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut address = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut address).unwrap();
        Self { child, folder, address: address.trim().to_owned() }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.stdin.take()); // its end ends the service, and that its distributions
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// Where the root for WSL with an engine double is.
pub fn wsl_root() -> PathBuf {
    guests().join(own_arch()).join("wsl")
}

/// A machine in WSL's double, or `None` with the reason printed.
pub fn wsl_machine(name: &str) -> Option<Machine> {
    if !geteuid().is_root() {
        println!("skipped: WSL's double makes namespaces, which wants root");
        return None;
    }
    let mut machine = machine_on(name, Hypervisor::Wsl, |_| ())?;
    let service = Service::start(name);
    machine.set("CORACLE_WSL", &example("wsl_double").display().to_string());
    machine.set("CORACLE_WSL_ROOT", &fs::canonicalize(wsl_root()).unwrap().display().to_string());
    machine.set("CORACLE_WSL_DOUBLE", &service.address);
    machine.service = Some(service);
    Some(machine)
}

/// The same, with `prepare` called on the home while it is an empty folder.
pub fn machine_on(name: &str, hypervisor: Hypervisor, prepare: impl FnOnce(&Path)) -> Option<Machine> {
    if let Some(why) = hypervisor.foreign() {
        println!("skipped: {why}");
        return None;
    }
    if let Some(why) = hypervisor.lacking() {
        assert!(std::env::var_os("CORACLE_TEST_MACHINE").is_none(), "{why}");
        println!("skipped: {why}");
        return None;
    }
    let mut machine = bare_machine_on(name, prepare);
    let text = |path: PathBuf| fs::canonicalize(path).unwrap().display().to_string();
    machine.set("CORACLE_GUEST", &text(guest()));
    if cfg!(target_os = "linux") {
        machine.set("CORACLE_QEMU", &text(qemu()));
        machine.set("CORACLE_ENGINE", &text(target().join("double/coracle-engine")));
    }
    // By the name that they were given: krunkit's double knows by its name whose place it takes.
    let real = |path: PathBuf| std::path::absolute(path).unwrap().display().to_string();
    match (hypervisor, hypervisor.real()) {
        (Hypervisor::Vfkit, Some(vfkit)) => machine.set("CORACLE_VFKIT", &real(vfkit)),
        (Hypervisor::Krunkit, Some(krunkit)) => {
            let gvproxy =
                named("CORACLE_TEST_GVPROXY").expect("CORACLE_TEST_GVPROXY names krunkit's network");
            machine.set("CORACLE_KRUNKIT", &real(krunkit));
            machine.set("CORACLE_GVPROXY", &real(gvproxy));
        }
        (Hypervisor::Vfkit, None) => machine.set("CORACLE_VFKIT", &text(vfkit_double())),
        (Hypervisor::Krunkit, None) => in_krunkits_place(&mut machine),
        (Hypervisor::Qemu | Hypervisor::Wsl, _) => {}
    }
    machine.done(&["settings", "set", "driver", hypervisor.name()]);
    if hypervisor == Hypervisor::Qemu {
        machine.done(&["settings", "set", "accel", "tcg"]);
    }
    machine.done(&["settings", "set", "memory-mib", "512"]);
    machine.done(&["settings", "set", "disk-gib", "1"]);
    Some(machine)
}

/// Whether QEMU gave up by an assertion about its own map of memory: once in some thousand boots it does so while it
/// translates, whatever the guest does. That is nothing of ours to test; a second time would be.
fn is_qemus_own(words: &str) -> bool {
    ["msix_table_mmio_write: Assertion", "iotlb_to_section: Assertion"].iter().any(|of| words.contains(of))
}

impl Machine {
    pub fn set(&mut self, key: &str, value: &str) {
        self.env.retain(|(k, _)| k != key);
        self.env.push((key.into(), value.into()));
    }

    /// What was set.
    pub fn get(&self, key: &str) -> Option<String> {
        self.env.iter().find(|(k, _)| k == key).map(|(_, value)| value.clone())
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coracle"));
        command.args(args).env_clear().env("HOME", "/nonexistent").env("PATH", "/usr/bin:/bin");
        command.env("CORACLE_HOME", &self.home).envs(self.env.iter().cloned()).current_dir("/");
        if becomes_user() {
            command.uid(USER).gid(USER);
        }
        command
    }

    /// What a shell in the guest says. Its terminal shows the line itself as well.
    pub fn shell(&self, script: &str) -> String {
        let mut command = self.command(&["shell"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut shell = command.spawn().unwrap();
        writeln!(shell.stdin.take().unwrap(), "{script}; exit").unwrap();
        let said = shell.wait_with_output().unwrap();
        assert!(said.status.success(), "{said:?}");
        String::from_utf8_lossy(&said.stdout).into_owned()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    pub fn done(&self, args: &[&str]) -> String {
        let mut output = self.run(args);
        if is_qemus_own(&String::from_utf8_lossy(&output.stderr)) {
            output = self.run(args);
        }
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {said}\n{}", self.logs());
        String::from_utf8(output.stdout).unwrap()
    }

    /// Fails, with one line on stderr and exit code 1; gives the line.
    pub fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{args:?}: {said}\n{}", self.logs());
        assert_eq!(said.lines().count(), 1, "{said}");
        said
    }

    pub fn status(&self) -> Value {
        serde_json::from_slice(&self.run(&["status", "--json"]).stdout).unwrap()
    }

    pub fn error_code(&self) -> String {
        self.status()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    pub fn until(&self, what: &str, mut true_now: impl FnMut(&Value) -> bool) {
        let since = Instant::now();
        loop {
            let status = self.status();
            if true_now(&status) {
                return;
            }
            assert!(since.elapsed() < LIMIT, "{what} never came: {status}\n{}", self.logs());
            #[allow(clippy::disallowed_methods)] // the command line has no way to wait for a state
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub fn logs(&self) -> String {
        let read = |name: &str| fs::read_to_string(self.home.join("logs").join(name)).unwrap_or_default();
        format!("--- daemon\n{}--- console\n{}", read("daemon.log"), read("console.log"))
    }

    pub fn pid(&self, file: &str) -> u32 {
        fs::read_to_string(self.home.join(file)).unwrap().trim().parse().unwrap()
    }

    /// The hypervisor's pid, as the daemon wrote it down.
    pub fn hypervisor(&self) -> u32 {
        let text = fs::read(self.home.join("machine/machine.json")).unwrap();
        let record: Value = serde_json::from_slice(&text).unwrap();
        let pid = ["pid", "vfkit", "wsl"].iter().find_map(|key| record[*key].as_u64());
        u32::try_from(pid.unwrap()).unwrap()
    }

    pub fn docker(&self) -> UnixStream {
        let stream = UnixStream::connect(self.home.join("run/docker.sock")).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream
    }

    pub fn http(&self, method: &str, path: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = self.docker();
        let head = format!("{method} {path} HTTP/1.1\r\nHost: d\r\nContent-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).unwrap();
        stream.write_all(body).unwrap();
        // The client has said all: the answer still comes.
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap_or_else(|e| panic!("{path}: {e}\n{}", self.logs()));
        let head = answer.windows(4).position(|w| w == b"\r\n\r\n");
        answer.split_off(head.unwrap_or_else(|| panic!("{path}: no answer\n{}", self.logs())) + 4)
    }

    pub fn publish(&self, generation: u64, ports: &Value) -> Value {
        let body = json!({ "generation": generation, "ports": ports }).to_string();
        serde_json::from_slice(&self.http("POST", "/ports", body.as_bytes())).unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.run(&["stop", "--grace", "1"]);
        if let Ok(pid) = fs::read_to_string(self.home.join("run/daemon.pid")) {
            kill(pid.trim().parse().unwrap_or(0));
        }
        if self.home.join("machine/machine.json").exists() {
            kill(self.hypervisor());
        }
        let _ = fs::remove_dir_all(&self.home);
    }
}

/// A process, by its number; none where the number can't be one of ours.
fn process(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid.try_into().ok()?).filter(|pid| !pid.is_init())
}

pub fn kill(pid: u32) {
    if let Some(pid) = process(pid) {
        let _ = kill_process(pid, Signal::KILL);
    }
}

/// Asks a process to end.
pub fn terminate(pid: u32) {
    kill_process(process(pid).unwrap(), Signal::TERM).unwrap();
}

pub fn lives(pid: u32) -> bool {
    process(pid).is_some_and(|pid| test_kill_process(pid).is_ok())
}

/// Waits for the end of a process that somebody else reaps.
pub fn gone(pid: u32) {
    let since = Instant::now();
    while lives(pid) {
        assert!(since.elapsed() < LIMIT, "process {pid} is left behind");
        #[allow(clippy::disallowed_methods)] // another's process has no event for its end
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn port(key: &str, proto: &str, host_port: u16, target_port: u16) -> Value {
    json!({ "key": key, "proto": proto, "host_ip": "127.0.0.1", "host_port": host_port,
            "target_ip": "127.0.0.1", "target_port": target_port })
}

pub fn bound(outcome: &Value, at: usize) -> u16 {
    outcome["results"][at]["ok"]["host_port"].as_u64().unwrap_or_else(|| panic!("{outcome}")) as u16
}

pub fn echo(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.write_all(b"through the port")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

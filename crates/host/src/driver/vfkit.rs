//! A guest on macOS, by vfkit (Virtualization.framework) or krunkit (Hypervisor.framework): a process of its own session,
//! which outlives the daemon and is taken over by the next. What differs between the two is data ([`Kind`]).
//!
//! ```text
//! machine/rest.sock    its control
//! machine/link.sock    the guest's vsock port of the link: each connection here is one there
//! machine/root.erofs   the guest's root, a copy of the image's (a clone where the file system can): disks are opened
//!                      for writing, and the image may be part of a signed application
//! machine/boot.img     krunkit: what its firmware boots (`boot_disk`)
//! machine/net.sock     krunkit: the guest's frames, to gvproxy (`proxy`)
//! machine/vfkit.log    what it says when it fails
//! machine/vfkit.pid    its pid, written by itself: known also of one whose daemon was killed as it started
//! machine/machine.json pid and image of the running guest, for whoever takes over
//! ```
//!
//! What differs from QEMU: nothing tells of a panic (the console is looked at instead), of a full disk (room is looked
//! for instead, and the guest paused before there is none), or of anything else but the end of the process. Words and
//! their places in the programs' own sources: `crates/cli/examples/vfkit_double/options.rs`.

mod boot_disk;
mod kind;
mod proxy;
mod rest;

use std::{
    fs::{self, File},
    path::{Path, PathBuf, is_separator},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{Event, LOOPBACK_BY_LINK, Tell, make_disk, need_room, shares};
use crate::{
    Home, HostError, Settings,
    home::write_whole,
    log::{begin_anew, tail},
    parts::{self, Image},
    platform,
};
pub use kind::Kind;
use kind::{Boot, Network, Pause, Sockets};
use proxy::Proxy;
use rest::{Change, Rest, State};

/// Time in which one just started must say that its guest runs, and pause between two looks.
const RUNS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(10));
/// Pause between two looks whether one that isn't our child still lives.
const LOOK: Duration = Duration::from_millis(500);
/// Lines of what it said that make an error.
const SAID_LINES: usize = 6;
/// Where its pid is.
const PID_FILE: &str = "vfkit.pid";
/// Time in which one that is killed must be gone.
const KILL_LIMIT: Duration = Duration::from_secs(5);
/// The guest's vsock port of the link.
const LINK_PORT: u32 = 1024;
/// The name by which the guest mounts Rosetta.
const ROSETTA: &str = "rosetta";
/// The right that macOS wants of programs that make machines.
const ENTITLEMENT: &str = "com.apple.security.virtualization";

/// A guest at work.
pub struct Vfkit {
    kind: &'static Kind,
    record: Record,
    rest: Rest,
    link: PathBuf,
    tell: Tell,
    _watch: Watch,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    vfkit: u32,
    image: String,
    /// Its program's name.
    #[serde(default)]
    program: Option<String>,
    /// The process of its network.
    #[serde(default)]
    proxy: Option<u32>,
}

/// The task that waits for the end; it goes with its owner.
struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Ends one whose daemon was killed before it could be recorded: it holds the disks, and nobody takes it over.
async fn end_unrecorded(home: &Home, rest: &Rest) {
    let Ok(text) = fs::read_to_string(home.machine(PID_FILE)) else { return };
    let Ok(pid) = text.parse::<u32>() else { return };
    if !platform::command_names(pid, &rest.socket().to_string_lossy()) {
        return;
    }
    tracing::warn!("one that nobody recorded, pid {pid}, is ended");
    platform::end(pid, true);
    let deadline = Instant::now() + KILL_LIMIT;
    while platform::alive(pid) && Instant::now() < deadline {
        sleep(RUNS.1).await; // another daemon's child: no event for its end
    }
}

impl Vfkit {
    /// Starts a guest.
    pub async fn launch(
        home: &Home,
        settings: &Settings,
        kind: &'static Kind,
        tell: Tell,
    ) -> Result<Self, HostError> {
        let image = Image::find()?;
        let program = parts::hypervisor(kind)?;
        if let Some(most) = kind.most_memory_mib.filter(|most| settings.memory_mib > *most) {
            let name = kind.name;
            return Err(HostError::Setting(format!("memory-mib may be {most} at most with {name}")));
        }
        need_room(home)?;
        make_disk(home, settings)?;
        let root = root_copy(home, &image)?;
        let rest = Rest::at(home.machine("rest.sock"));
        end_unrecorded(home, &rest).await;
        for stale in [rest.socket().to_owned(), home.link_socket(), home.machine("machine.json")] {
            let _ = fs::remove_file(stale);
        }
        // It begins its log anew, and writes on where it was when somebody else makes it shorter.
        begin_anew(&home.console_log()).map_err(HostError::io("turning", home.console_log()))?;
        let log = home.machine("vfkit.log");
        let said = File::create(&log).map_err(HostError::io("making", &log))?;
        let mut command = Command::new(&program);
        command.args(arguments(home, settings, kind, &image, &root)?);
        command.stdout(Stdio::null()).stderr(Stdio::from(said));
        let proxy = match kind.network {
            Network::Nat => None,
            Network::Proxy => Some(Proxy::start(home, tell.clone()).await?),
        };
        tracing::info!("starting {command:?}");
        let noted = platform::spawn_noted(&mut command, &home.machine(PID_FILE));
        let mut child = noted.map_err(HostError::io("running", &program))?;
        let pid = child.id();
        // Before anything else: a daemon killed from here on leaves one that the next daemon takes over.
        let record = Record {
            vfkit: pid,
            image: image.build,
            program: Some(kind.name.into()),
            proxy: proxy.as_ref().map(Proxy::pid),
        };
        let json = serde_json::to_vec(&record).expect("a record is JSON");
        write_whole(&home.machine("machine.json"), &json).inspect_err(|_| platform::end(pid, true))?;
        let (ended, mut end) = oneshot::channel();
        std::thread::spawn(move || {
            let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            let _ = ended.send(how);
        });
        let runs = tokio::select! {
            runs = runs(&rest, kind) => runs,
            how = &mut end => Err(died(kind, &how.unwrap_or_default(), &log)),
        };
        runs.inspect_err(|_| platform::end(pid, true))?;
        let watch = tokio::spawn({
            let (tell, home, proxy) = (tell.clone(), home.clone(), proxy.map(Proxy::keep));
            async move {
                let how = end.await.unwrap_or_default();
                tell(Event::Exited(format!("{how}. {}", tail(&log, SAID_LINES))));
                proxy.inspect(|pid| proxy::end(&home, *pid));
            }
        });
        Ok(Self { kind, record, rest, link: home.link_socket(), tell, _watch: Watch(watch) })
    }

    /// Takes over a guest that an earlier daemon left; `None` when there is none that answers. One that lives and does
    /// not answer is ended.
    pub async fn adopt(home: &Home, tell: Tell) -> Option<Self> {
        let record: Record = serde_json::from_slice(&fs::read(home.machine("machine.json")).ok()?).ok()?;
        let kind = record.program.as_deref().map_or(Some(&kind::VFKIT), Kind::named)?;
        let (rest, pid) = (Rest::at(home.machine("rest.sock")), record.vfkit);
        let is_ours = || platform::command_names(pid, &rest.socket().to_string_lossy());
        if kind.pause == Pause::Signal && is_ours() {
            platform::hold(pid, false); // one that stands still can't answer
        }
        if let Err(error) = rest.state().await {
            if is_ours() {
                tracing::warn!("{}, pid {pid}, does not answer ({error}) and is ended", kind.name);
                platform::end(pid, true);
            }
            record.proxy.inspect(|pid| proxy::end(home, *pid));
            return None;
        }
        tracing::info!("taking over {}, pid {pid}", kind.name);
        let watch = tokio::spawn({
            let (tell, home, mut network) = (tell.clone(), home.clone(), record.proxy);
            async move {
                while platform::alive(pid) {
                    sleep(LOOK).await; // not our child: nobody tells us of its end
                    if network.take_if(|proxy| !platform::alive(*proxy)).is_some() {
                        tell(Event::NetworkLost);
                    }
                }
                tell(Event::Exited(tail(&home.machine("vfkit.log"), SAID_LINES)));
                network.inspect(|pid| proxy::end(&home, *pid));
            }
        });
        Some(Self { kind, record, rest, link: home.link_socket(), tell, _watch: Watch(watch) })
    }

    /// What makes it.
    pub fn kind(&self) -> &'static Kind {
        self.kind
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.record.vfkit
    }

    /// The link's channel.
    pub fn link_socket(&self) -> PathBuf {
        self.link.clone()
    }

    /// Presses the power button.
    pub fn power_button(&self) {
        self.change(Change::Stop, || ());
    }

    /// Lets the guest stand still.
    pub fn pause(&self) {
        match self.kind.pause {
            Pause::Control => self.change(Change::Pause, || ()),
            Pause::Signal => platform::hold(self.pid(), true),
        }
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let tell: Tell = self.tell.clone();
        match self.kind.pause {
            Pause::Control => self.change(Change::Resume, move || tell(Event::Resumed)),
            Pause::Signal => {
                platform::hold(self.pid(), false);
                tell(Event::Resumed);
            }
        }
    }

    /// Ends it at once: the guest by its control, and the program itself where that doesn't.
    pub fn kill(&self) {
        let (rest, pid, kind) = (self.rest.clone(), self.pid(), self.kind);
        tokio::spawn(async move {
            if !kind.stops_hard || rest.change(Change::HardStop).await.is_err() {
                platform::end(pid, true);
                return;
            }
            let deadline = Instant::now() + rest::LIMIT;
            while platform::alive(pid) && Instant::now() < deadline {
                sleep(RUNS.1).await; // it may be another daemon's child: no event for its end
            }
            platform::end(pid, true);
        });
    }

    fn change(&self, change: Change, done: impl FnOnce() + Send + 'static) {
        let (rest, name) = (self.rest.clone(), self.kind.name);
        tokio::spawn(async move {
            match rest.change(change).await {
                Ok(()) => done(),
                Err(error) => tracing::warn!("{name} did not {change:?}: {error}"),
            }
        });
    }
}

/// What the program said last that is the guest's network.
pub fn network_said(home: &Home) -> String {
    proxy::said(home)
}

/// Returns when it says that its guest runs.
async fn runs(rest: &Rest, kind: &'static Kind) -> Result<(), HostError> {
    let deadline = Instant::now() + RUNS.0;
    loop {
        let said = match rest.state().await {
            Ok(State::Running) => return Ok(()),
            Ok(State::Error) => return Err(HostError::VfkitDied(kind, "its guest is in error".into())),
            Ok(other) => format!("its guest is {other:?}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            let said = format!("its guest did not run within {:?}: {said}", RUNS.0);
            return Err(HostError::VfkitDied(kind, said));
        }
        sleep(RUNS.1).await; // it makes its socket when it likes
    }
}

/// What its end means.
fn died(kind: &'static Kind, how: &str, log: &Path) -> HostError {
    let said = tail(log, SAID_LINES);
    if said.contains(ENTITLEMENT) {
        return HostError::Entitlement(ENTITLEMENT);
    }
    HostError::VfkitDied(kind, format!("{how}. {said}"))
}

/// A copy of the image's root in the home, made when the image is another one.
fn root_copy(home: &Home, image: &Image) -> Result<PathBuf, HostError> {
    let (root, of) = (home.machine("root.erofs"), home.machine("root.image"));
    if root.exists() && fs::read_to_string(&of).is_ok_and(|build| build == image.build) {
        return Ok(root);
    }
    let part = home.machine("root.part");
    let _ = fs::remove_file(&of);
    fs::copy(image.folder.join("root.erofs"), &part).map_err(HostError::io("copying", &part))?;
    fs::rename(&part, &root).map_err(HostError::io("placing", &root))?;
    write_whole(&of, image.build.as_bytes())?;
    Ok(root)
}

/// A value of one of its options: they are split, with no escape.
fn value(kind: &'static Kind, path: &Path) -> Result<String, HostError> {
    let refused = |why| HostError::VfkitPath(kind, path.to_owned(), why);
    let text = path.to_str().ok_or_else(|| refused("is not UTF-8"))?;
    match kind.forbidden.iter().find(|(c, _)| text.contains(*c)) {
        Some((_, why)) => Err(refused(why)),
        None => Ok(text.to_owned()),
    }
}

/// The value of one that is a socket's path.
fn socket_value(kind: &'static Kind, path: &Path) -> Result<String, HostError> {
    let text = value(kind, path)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~$&+:;=@!'()*".contains(c) || is_separator(c);
    if kind.sockets == Sockets::Addresses && !text.chars().all(is_plain) {
        let why = "has a space, or something else that can't stand in an address";
        return Err(HostError::VfkitPath(kind, path.to_owned(), why));
    }
    Ok(text)
}

/// The command line; makes the disk that firmware boots from where it is one that does.
fn arguments(
    home: &Home,
    settings: &Settings,
    kind: &'static Kind,
    image: &Image,
    root: &Path,
) -> Result<Vec<String>, HostError> {
    let value = |path: &Path| value(kind, path);
    let folders: Vec<&Path> =
        settings.shares.iter().map(PathBuf::as_path).filter(|folder| is_folder(folder)).collect();
    // Disks are named in the order they are given in.
    let (own, data) = match kind.boot {
        Boot::Kernel => ("/dev/vda", "/dev/vdb"),
        Boot::Firmware => ("/dev/vdb", "/dev/vdc"),
    };
    let host = match kind.network {
        Network::Nat => String::new(),
        Network::Proxy => format!(" coracle.host={}", proxy::HOST),
    };
    let rosetta = kind.has_rosetta && settings.rosetta && parts::arch() == "arm64";
    let boot = format!(
        "{} console=hvc0 panic=0 coracle.root={own} coracle.data={data} coracle.net=dhcp{host} {LOOPBACK_BY_LINK} \
         coracle.link=vsock:{LINK_PORT}{}{}{} {}",
        image.cmdline,
        shares::boot_arguments(&folders),
        if rosetta { format!(" coracle.rosetta={ROSETTA}") } else { String::new() },
        crate::routes::boot_argument(),
        settings.kernel_arguments
    );
    if boot.contains('"') {
        let text = "kernel-arguments may not have double quotes: vfkit can't pass them on";
        return Err(HostError::Setting(text.into()));
    }
    let mut pairs = vec![
        ("--cpus", settings.cpus.to_string()),
        ("--memory", settings.memory_mib.to_string()),
        ("--restful-uri", format!("unix://{}", socket_value(kind, &home.machine("rest.sock"))?)),
    ];
    match kind.boot {
        Boot::Kernel => pairs.push((
            "--bootloader",
            format!(
                "linux,kernel={},initrd={},cmdline=\"{}\"",
                value(&image.folder.join("kernel"))?,
                value(&image.folder.join("initrd"))?,
                boot.trim_end()
            ),
        )),
        Boot::Firmware => {
            let disk = make_boot_disk(home, image, &boot)?;
            pairs.push(("--device", format!("virtio-blk,path={}", value(&disk)?)));
        }
    }
    let network = match kind.network {
        Network::Nat => "nat".into(),
        Network::Proxy => format!("unixSocketPath={}", socket_value(kind, &proxy::socket(home))?),
    };
    pairs.extend([
        ("--device", format!("virtio-blk,path={}", value(root)?)),
        ("--device", format!("virtio-blk,path={}", value(&home.disk())?)),
        ("--device", "virtio-rng".into()),
        ("--device", format!("virtio-serial,logFilePath={}", value(&home.console_log())?)),
        (
            "--device",
            format!(
                "virtio-vsock,port={LINK_PORT},socketURL={},connect",
                socket_value(kind, &home.link_socket())?
            ),
        ),
        ("--device", format!("virtio-net,{network},mac={}", mac(home))),
    ]);
    for (number, folder) in folders.iter().enumerate() {
        let tag = shares::tag(number);
        pairs.push(("--device", format!("virtio-fs,sharedDir={},mountTag={tag}", value(folder)?)));
    }
    if rosetta {
        pairs.push(("--device", format!("rosetta,mountTag={ROSETTA}")));
    }
    Ok(pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
}

/// The disk that firmware boots from, anew.
fn make_boot_disk(home: &Home, image: &Image, arguments: &str) -> Result<PathBuf, HostError> {
    let read = |name: &str| {
        let path = image.folder.join(name);
        fs::read(&path).map_err(HostError::io("reading", path))
    };
    let content = boot_disk::Content {
        loader_name: if parts::arch() == "arm64" { "BOOTAA64.EFI" } else { "BOOTX64.EFI" },
        loader: read("boot.efi")?,
        kernel: read("kernel")?,
        initrd: read("initrd")?,
        arguments,
    };
    let disk = home.machine("boot.img");
    boot_disk::write(&disk, content).map_err(HostError::io("making", &disk))?;
    Ok(disk)
}

fn is_folder(path: &Path) -> bool {
    let is = path.is_dir();
    if !is {
        tracing::warn!("{} is not shared: it is not a folder", path.display());
    }
    is
}

/// The home's own address: with a new one for every start, macOS would run out of leases.
fn mac(home: &Home) -> String {
    let digest = Sha256::digest(home.root().as_os_str().as_encoded_bytes());
    let rest: Vec<String> = digest.iter().take(5).map(|b| format!("{b:02x}")).collect();
    format!("02:{}", rest.join(":")) // 02: of nobody's range, for one machine
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home(dir: &Path) -> Home {
        let home = Home::at(dir.join("h"), false).unwrap();
        home.create().unwrap();
        home
    }

    fn image(dir: &Path) -> Image {
        fs::write(dir.join("root.erofs"), "root").unwrap();
        Image { folder: dir.to_owned(), build: "b1".into(), cmdline: "quiet".into() }
    }

    #[test]
    fn what_vfkit_cannot_be_told_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let (home, image) = (home(dir.path()), image(dir.path()));
        let share = dir.path().join("a,b");
        fs::create_dir(&share).unwrap();
        let none = Settings { shares: Vec::new(), ..Settings::default() };
        let with = |settings: Settings| {
            arguments(&home, &settings, &kind::VFKIT, &image, Path::new("/r")).map(|_| ())
        };
        with(none.clone()).unwrap();
        let comma = with(Settings { shares: vec![share], ..none.clone() }).unwrap_err();
        assert!(comma.to_string().contains("has a comma"), "{comma}");
        let quotes = Settings { kernel_arguments: "a=\"b c\"".into(), ..none.clone() };
        assert!(with(quotes).unwrap_err().to_string().contains("double quotes"));
        let gone = Settings { shares: vec![dir.path().join("gone")], ..none };
        with(gone).unwrap();
    }

    /// vfkit would listen at `a%20b/machine/link.sock`, which nobody finds.
    #[test]
    fn a_home_whose_sockets_vfkit_would_make_elsewhere_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let image = image(dir.path());
        let none = Settings { shares: Vec::new(), ..Settings::default() };
        for name in ["a b", "Jürgen", "100%", "a#b"] {
            let home = home(&dir.path().join(name));
            let error = arguments(&home, &none, &kind::VFKIT, &image, Path::new("/r")).unwrap_err();
            assert_eq!(error.code(), "vfkit_path", "{name}");
        }
        // Folders are not addresses.
        let share = dir.path().join("my 100% Öl");
        fs::create_dir(&share).unwrap();
        let settings = Settings { shares: vec![share], ..none };
        arguments(&home(dir.path()), &settings, &kind::VFKIT, &image, Path::new("/r")).unwrap();
    }

    /// Each has what the other refuses.
    #[test]
    fn krunkit_is_told_in_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let (home, image) = (home(dir.path()), image(dir.path()));
        for name in ["kernel", "initrd", "boot.efi"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let none = Settings { shares: Vec::new(), ..Settings::default() };
        let line = |kind| arguments(&home, &none, kind, &image, Path::new("/r")).unwrap().join(" ");
        let (vfkit, krunkit) = (line(&kind::VFKIT), line(&kind::KRUNKIT));
        assert!(vfkit.contains("--bootloader linux,") && vfkit.contains("virtio-net,nat,"), "{vfkit}");
        assert!(!krunkit.contains("--bootloader") && !krunkit.contains(",nat"), "{krunkit}");
        // The disk of its firmware is the first one.
        let disks: Vec<usize> =
            ["boot.img", "=/r ", "disk.raw"].iter().map(|name| krunkit.find(name).unwrap()).collect();
        assert!(disks.is_sorted(), "{krunkit}");
        let disk = fs::read(home.machine("boot.img")).unwrap();
        let told =
            "coracle.root=/dev/vdb coracle.data=/dev/vdc coracle.net=dhcp coracle.host=192.168.127.254";
        assert!(disk.windows(told.len()).any(|bytes| bytes == told.as_bytes()));

        let share = dir.path().join("a=b");
        fs::create_dir(&share).unwrap();
        let settings = Settings { shares: vec![share], ..none.clone() };
        let with = |kind| arguments(&home, &settings, kind, &image, Path::new("/r"));
        assert_eq!(with(&kind::KRUNKIT).unwrap_err().code(), "krunkit_path");
        with(&kind::VFKIT).unwrap();
    }

    #[test]
    fn the_address_is_the_homes_own() {
        let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        assert_eq!(mac(&home(a.path())), mac(&home(a.path())));
        assert_ne!(mac(&home(a.path())), mac(&home(b.path())));
        assert!(mac(&home(a.path())).starts_with("02:"));
    }

    #[test]
    fn the_root_is_copied_when_the_image_is_another() {
        let dir = tempfile::tempdir().unwrap();
        let (home, mut image) = (home(dir.path()), image(dir.path()));
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let root = root_copy(&home, &image).unwrap();
        assert_eq!(read(&root), "root");
        fs::write(dir.path().join("root.erofs"), "new").unwrap();
        assert_eq!(read(&root_copy(&home, &image).unwrap()), "root", "the image is the same one");
        image.build = "b2".into();
        assert_eq!(read(&root_copy(&home, &image).unwrap()), "new");
    }

    #[test]
    fn a_refused_right_is_told_from_other_ends() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("vfkit.log");
        fs::write(&log, "Error: Invalid virtual machine configuration. The process doesn’t have the “com.apple.security.virtualization” entitlement.\n").unwrap();
        assert_eq!(died(&kind::VFKIT, "exit status: 1", &log).code(), "entitlement");
        fs::write(&log, "something else\n").unwrap();
        assert_eq!(died(&kind::VFKIT, "exit status: 1", &log).code(), "vfkit_died");
    }
}

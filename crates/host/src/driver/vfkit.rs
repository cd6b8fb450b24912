//! A guest under macOS' Virtualization.framework, by vfkit: a process of its own session, which outlives the daemon and
//! is taken over by the next.
//!
//! ```text
//! machine/rest.sock    vfkit's control
//! machine/link.sock    the guest's vsock port of the link: each connection here is one there
//! machine/root.erofs   the guest's root, a copy of the image's (a clone where the file system can): vfkit opens disks
//!                      for writing, and the image may be part of a signed application
//! machine/vfkit.log    what it says when it fails
//! machine/machine.json pid and image of the running guest, for whoever takes over
//! ```
//!
//! What differs from QEMU: nothing tells of a panic (the console is looked at instead), of a full disk (room is looked
//! for instead, and the guest paused before there is none), or of anything else but the end of the process. Words and
//! their places in vfkit's own sources: `crates/cli/examples/vfkit_double/options.rs`.

mod rest;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};

use super::{Event, Tell, make_disk, need_room, shares};
use crate::{
    Home, HostError, Settings,
    home::write_whole,
    log::{begin_anew, tail},
    parts::{self, Image},
    platform,
};
use rest::{Change, Rest, State};

/// Time in which a vfkit just started must say that its guest runs, and pause between two looks.
const RUNS: (Duration, Duration) = (Duration::from_secs(30), Duration::from_millis(10));
/// Pause between two looks whether a vfkit that isn't our child still lives.
const LOOK: Duration = Duration::from_millis(500);
/// Lines of what vfkit said that make an error.
const SAID_LINES: usize = 6;
/// The guest's vsock port of the link.
const LINK_PORT: u32 = 1024;
/// The right that macOS wants of programs that make machines.
const ENTITLEMENT: &str = "com.apple.security.virtualization";

/// A guest at work.
pub struct Vfkit {
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
}

/// The task that waits for the end; it goes with its owner.
struct Watch(tokio::task::JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Vfkit {
    /// Starts a guest.
    pub async fn launch(home: &Home, settings: &Settings, tell: Tell) -> Result<Self, HostError> {
        let image = Image::find()?;
        let program = parts::vfkit()?;
        need_room(home)?;
        make_disk(home, settings)?;
        let root = root_copy(home, &image)?;
        let rest = Rest::at(home.machine("rest.sock"));
        for stale in [rest.socket().to_owned(), home.link_socket(), home.machine("machine.json")] {
            let _ = fs::remove_file(stale);
        }
        // vfkit begins its log anew, and writes on where it was when somebody else makes it shorter.
        begin_anew(&home.console_log()).map_err(HostError::io("turning", home.console_log()))?;
        let log = home.machine("vfkit.log");
        let said = File::create(&log).map_err(HostError::io("making", &log))?;
        let mut command = Command::new(&program);
        command.args(arguments(home, settings, &image, &root)?);
        command.stdout(Stdio::null()).stderr(Stdio::from(said));
        tracing::info!("starting {command:?}");
        let mut child = platform::spawn_detached(&mut command).map_err(HostError::io("running", &program))?;
        let pid = child.id();
        // Before anything else: a daemon killed from here on leaves a vfkit that the next one knows of.
        let record = Record { vfkit: pid, image: image.build };
        let json = serde_json::to_vec(&record).expect("a record is JSON");
        write_whole(&home.machine("machine.json"), &json).inspect_err(|_| platform::end(pid, true))?;
        let (ended, mut end) = oneshot::channel();
        std::thread::spawn(move || {
            let how = child.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
            let _ = ended.send(how);
        });
        let runs = tokio::select! {
            runs = runs(&rest) => runs,
            how = &mut end => Err(died(&how.unwrap_or_default(), &log)),
        };
        runs.inspect_err(|_| platform::end(pid, true))?;
        let watch = tokio::spawn({
            let tell = tell.clone();
            async move {
                let how = end.await.unwrap_or_default();
                tell(Event::Exited(format!("{how}. {}", tail(&log, SAID_LINES))));
            }
        });
        Ok(Self { record, rest, link: home.link_socket(), tell, _watch: Watch(watch) })
    }

    /// Takes over a guest that an earlier daemon left; `None` when there is none that answers. One that lives and does
    /// not answer is ended.
    pub async fn adopt(home: &Home, tell: Tell) -> Option<Self> {
        let record: Record = serde_json::from_slice(&fs::read(home.machine("machine.json")).ok()?).ok()?;
        let (rest, pid) = (Rest::at(home.machine("rest.sock")), record.vfkit);
        if let Err(error) = rest.state().await {
            if platform::command_names(pid, &rest.socket().to_string_lossy()) {
                tracing::warn!("vfkit, pid {pid}, does not answer ({error}) and is ended");
                platform::end(pid, true);
            }
            return None;
        }
        tracing::info!("taking over vfkit, pid {pid}");
        let watch = tokio::spawn({
            let (tell, log) = (tell.clone(), home.machine("vfkit.log"));
            async move {
                while platform::alive(pid) {
                    sleep(LOOK).await; // not our child: nobody tells us of its end
                }
                tell(Event::Exited(tail(&log, SAID_LINES)));
            }
        });
        Some(Self { record, rest, link: home.link_socket(), tell, _watch: Watch(watch) })
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
        self.change(Change::Pause, || ());
    }

    /// Lets it go on.
    pub fn resume(&self) {
        let tell: Tell = self.tell.clone();
        self.change(Change::Resume, move || tell(Event::Resumed));
    }

    /// Ends it at once: the guest by vfkit, and vfkit itself where it doesn't.
    pub fn kill(&self) {
        let (rest, pid) = (self.rest.clone(), self.pid());
        tokio::spawn(async move {
            if rest.change(Change::HardStop).await.is_err() {
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
        let rest = self.rest.clone();
        tokio::spawn(async move {
            match rest.change(change).await {
                Ok(()) => done(),
                Err(error) => tracing::warn!("vfkit did not {change:?}: {error}"),
            }
        });
    }
}

/// Returns when vfkit says that its guest runs.
async fn runs(rest: &Rest) -> Result<(), HostError> {
    let deadline = Instant::now() + RUNS.0;
    loop {
        let said = match rest.state().await {
            Ok(State::Running) => return Ok(()),
            Ok(State::Error) => return Err(HostError::VfkitDied("its guest is in error".into())),
            Ok(other) => format!("its guest is {other:?}"),
            Err(error) => error.to_string(),
        };
        if Instant::now() > deadline {
            return Err(HostError::VfkitDied(format!("its guest did not run within {:?}: {said}", RUNS.0)));
        }
        sleep(RUNS.1).await; // it makes its socket when it likes
    }
}

/// What vfkit's end means.
fn died(how: &str, log: &Path) -> HostError {
    let said = tail(log, SAID_LINES);
    if said.contains(ENTITLEMENT) {
        return HostError::Entitlement(ENTITLEMENT);
    }
    HostError::VfkitDied(format!("{how}. {said}"))
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

/// A value of one of vfkit's options: they are split at commas, with no escape.
fn value(path: &Path) -> Result<String, HostError> {
    let text = path.to_str().ok_or_else(|| HostError::VfkitPath(path.to_owned(), "is not UTF-8"))?;
    if text.contains(',') {
        return Err(HostError::VfkitPath(path.to_owned(), "has a comma"));
    }
    if text.contains('"') {
        return Err(HostError::VfkitPath(path.to_owned(), "has a double quote"));
    }
    Ok(text.to_owned())
}

fn arguments(home: &Home, settings: &Settings, image: &Image, root: &Path) -> Result<Vec<String>, HostError> {
    let folders: Vec<&Path> =
        settings.shares.iter().map(PathBuf::as_path).filter(|folder| is_folder(folder)).collect();
    let boot = format!(
        "{} console=hvc0 panic=0 coracle.root=/dev/vda coracle.data=/dev/vdb coracle.net=dhcp \
         coracle.link=vsock:{LINK_PORT}{}{} {}",
        image.cmdline,
        shares::boot_arguments(&folders),
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
        ("--restful-uri", format!("unix://{}", value(&home.machine("rest.sock"))?)),
        (
            "--bootloader",
            format!(
                "linux,kernel={},initrd={},cmdline=\"{}\"",
                value(&image.folder.join("kernel"))?,
                value(&image.folder.join("initrd"))?,
                boot.trim_end()
            ),
        ),
        ("--device", format!("virtio-blk,path={}", value(root)?)),
        ("--device", format!("virtio-blk,path={}", value(&home.disk())?)),
        ("--device", "virtio-rng".into()),
        ("--device", format!("virtio-serial,logFilePath={}", value(&home.console_log())?)),
        (
            "--device",
            format!("virtio-vsock,port={LINK_PORT},socketURL={},connect", value(&home.link_socket())?),
        ),
        ("--device", format!("virtio-net,nat,mac={}", mac(home))),
    ];
    for (number, folder) in folders.iter().enumerate() {
        let tag = shares::tag(number);
        pairs.push(("--device", format!("virtio-fs,sharedDir={},mountTag={tag}", value(folder)?)));
    }
    Ok(pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]).collect())
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
        let with = |settings: Settings| arguments(&home, &settings, &image, Path::new("/r")).map(|_| ());
        with(none.clone()).unwrap();
        let comma = with(Settings { shares: vec![share], ..none.clone() }).unwrap_err();
        assert!(comma.to_string().contains("has a comma"), "{comma}");
        let quotes = Settings { kernel_arguments: "a=\"b c\"".into(), ..none.clone() };
        assert!(with(quotes).unwrap_err().to_string().contains("double quotes"));
        let gone = Settings { shares: vec![dir.path().join("gone")], ..none };
        with(gone).unwrap();
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
        assert_eq!(died("exit status: 1", &log).code(), "entitlement");
        fs::write(&log, "something else\n").unwrap();
        assert_eq!(died("exit status: 1", &log).code(), "vfkit_died");
    }
}

//! A guest under QEMU: a process of its own session, which outlives the daemon and is taken over by the next.
//!
//! ```text
//! machine/qemu.pid  qmp.sock  link.sock    QEMU's own
//! machine/qemu.log                         what it says when it fails
//! machine/machine.json                     accelerator and image of the running guest, for whoever takes over
//! ```

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::{
    process::Command as AsyncCommand,
    time::{Instant, timeout},
};

use super::{
    Event, LOOPBACK_BY_LINK, Tell, make_disk, need_room,
    qmp::{Monitor, Said},
    shares::Shares,
};
use crate::{
    Home, HostError, Settings,
    home::write_whole,
    log::tail,
    parts::{self, Image},
    platform, routes,
    settings::AccelChoice,
};

/// Oldest QEMU under TCG: before, guests of Linux 6.12 panic (seen with 7.2 at a cmpxchg16b).
const OLDEST_TCG: ((u32, u32), &str) = ((10, 0), "10.0");
/// Oldest QEMU with KVM.
const OLDEST_KVM: ((u32, u32), &str) = ((7, 2), "7.2");
/// Time in which `qemu --version` must answer.
const VERSION_LIMIT: Duration = Duration::from_secs(10);
/// Time in which a QEMU just started must open its monitor, and pause between two looks.
const MONITOR: (Duration, Duration) = (Duration::from_secs(15), Duration::from_millis(5));
/// Time in which a QEMU whose monitor has closed must be gone, and pause between two looks.
const GONE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(2));
/// Lines of what QEMU said that make an error.
const SAID_LINES: usize = 4;
/// The guest's addresses in QEMU's user-mode network.
const NET: &str = "10.0.2.15/24,10.0.2.2,10.0.2.3";

/// The processor that is translated: all that there is but what says that copying byte by byte is quick. Linux and the C
/// library believe it and copy so, and translated each byte is an instruction of its own: a pipe took four times as long.
const TRANSLATED: &str = "max,-erms,-fsrm,-fsrs";

/// How the guest's instructions are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Accel {
    /// By the processor.
    Kvm,
    /// Translated.
    Tcg,
}

impl Accel {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

/// A guest at work.
pub struct Qemu {
    monitor: Monitor,
    record: Record,
    link: PathBuf,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Record {
    pid: u32,
    accel: Accel,
    note: Option<String>,
    image: String,
    /// The shared folders, in the order of their tags.
    #[serde(default)]
    shares: Vec<PathBuf>,
}

impl Qemu {
    /// Starts a guest. Where KVM is only one choice and QEMU dies of it, it is started without.
    pub async fn launch(
        home: &Home,
        settings: &Settings,
        without_kvm: Option<String>,
        tell: Tell,
    ) -> Result<Self, HostError> {
        let image = Image::find()?;
        let program = parts::qemu(settings)?;
        let version = version(&program).await?;
        need_room(home)?;
        make_disk(home, settings)?;
        let (accel, note) = choose(settings, without_kvm)?;
        let launch = Launch { home, settings, image: &image, program: &program, version };
        match launch.run(accel, note, tell.clone()).await {
            Err(HostError::QemuDied(why)) if accel == Accel::Kvm && settings.accel == AccelChoice::Auto => {
                tracing::warn!("QEMU dies with KVM, trying without: {why}");
                launch.run(Accel::Tcg, Some(format!("QEMU ended with KVM: {why}")), tell).await
            }
            other => other,
        }
    }

    /// Takes over a guest that an earlier daemon left; `None` when there is none that answers. One that lives and does
    /// not answer is ended.
    pub async fn adopt(home: &Home, tell: Tell) -> Option<Self> {
        let record: Record = serde_json::from_slice(&fs::read(home.machine("machine.json")).ok()?).ok()?;
        match Monitor::connect(&home.qmp_socket(), told(record.pid, home.machine("qemu.log"), tell)).await {
            Ok(monitor) => {
                tracing::info!("taking over QEMU, pid {}", record.pid);
                Some(Self { monitor, record, link: home.link_socket() })
            }
            Err(error) => {
                if is_ours(record.pid, home) {
                    tracing::warn!("QEMU, pid {}, does not answer ({error}) and is ended", record.pid);
                    platform::end(record.pid, true);
                }
                None
            }
        }
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.record.pid
    }

    /// How it runs, and why so.
    pub fn accel(&self) -> (Accel, Option<&str>) {
        (self.record.accel, self.record.note.as_deref())
    }

    /// The shared folders, in the order of their tags.
    pub fn folders(&self) -> &[PathBuf] {
        &self.record.shares
    }

    /// The link's channel.
    pub fn link_socket(&self) -> PathBuf {
        self.link.clone()
    }

    /// Presses the power button.
    pub fn power_button(&self) {
        self.monitor.send("system_powerdown");
    }

    /// Goes on after a stop.
    pub fn resume(&self) {
        self.monitor.send("cont");
    }
}

/// What one attempt needs.
struct Launch<'a> {
    home: &'a Home,
    settings: &'a Settings,
    image: &'a Image,
    program: &'a Path,
    version: (u32, u32),
}

impl Launch<'_> {
    async fn run(&self, accel: Accel, note: Option<String>, tell: Tell) -> Result<Qemu, HostError> {
        let home = self.home;
        let (oldest, why) = match accel {
            Accel::Kvm => (OLDEST_KVM, "with KVM"),
            Accel::Tcg => (OLDEST_TCG, "without KVM"),
        };
        if self.version < oldest.0 {
            let found = format!("{}.{}", self.version.0, self.version.1);
            return Err(HostError::QemuOld { found, needed: oldest.1, why });
        }
        for stale in
            [home.qmp_socket(), home.link_socket(), home.machine("qemu.pid"), home.machine("machine.json")]
        {
            let _ = fs::remove_file(stale);
        }
        let shares = Shares::start(home, self.settings).await?;
        let log = home.machine("qemu.log");
        let said = File::create(&log).map_err(HostError::io("making", &log))?;
        let mut command = Command::new(self.program);
        command.args(arguments(home, self.settings, self.image, accel, &shares));
        command.stdout(Stdio::null()).stderr(Stdio::from(said));
        tracing::info!("starting {command:?}");
        let mut child =
            platform::spawn_detached(&mut command).map_err(HostError::io("running", self.program))?;
        let pid = child.id();
        // Before anything else: a daemon killed from here on leaves a QEMU that the next one knows of.
        let record = Record { pid, accel, note, image: self.image.build.clone(), shares: shares.folders() };
        let json = serde_json::to_vec(&record).expect("a record is JSON");
        write_whole(&home.machine("machine.json"), &json).inspect_err(|_| platform::end(pid, true))?;
        let monitor = tokio::select! {
            monitor = connect(home, pid, tell) => monitor,
            end = tokio::task::spawn_blocking(move || child.wait()) => {
                let how = end.map_err(std::io::Error::other).flatten();
                let how = how.map_or_else(|error| error.to_string(), |status| status.to_string());
                return Err(HostError::QemuDied(format!("{how}. {}", tail(&log, SAID_LINES))));
            }
        };
        let monitor = monitor.inspect_err(|_| platform::end(pid, true))?;
        shares.keep();
        Ok(Qemu { monitor, record, link: home.link_socket() })
    }
}

fn choose(settings: &Settings, without_kvm: Option<String>) -> Result<(Accel, Option<String>), HostError> {
    let foreign = parts::arch() != parts::own_arch();
    let kvm_works = || match foreign {
        true => {
            Err(format!("the guest is made for {}, this computer is {}", parts::arch(), parts::own_arch()))
        }
        false => platform::kvm_works(),
    };
    match (settings.accel, without_kvm) {
        (AccelChoice::Tcg, _) => Ok((Accel::Tcg, None)),
        (AccelChoice::Auto, Some(why)) => Ok((Accel::Tcg, Some(why))),
        (AccelChoice::Auto, None) => Ok(match kvm_works() {
            Ok(()) => (Accel::Kvm, None),
            Err(why) => (Accel::Tcg, Some(why)),
        }),
        (AccelChoice::Kvm, _) => match kvm_works() {
            Ok(()) => Ok((Accel::Kvm, None)),
            Err(why) => {
                Err(HostError::Setting(format!("the setting accel is kvm, which does not work here: {why}")))
            }
        },
    }
}

fn is_ours(pid: u32, home: &Home) -> bool {
    platform::command_names(pid, &home.qmp_socket().to_string_lossy())
}

async fn connect(home: &Home, pid: u32, tell: Tell) -> Result<Monitor, HostError> {
    let path = home.qmp_socket();
    let connected = timeout(MONITOR.0, async {
        loop {
            if let Ok(monitor) =
                Monitor::connect(&path, told(pid, home.machine("qemu.log"), tell.clone())).await
            {
                return monitor;
            }
            tokio::time::sleep(MONITOR.1).await; // QEMU makes the socket when it likes
        }
    });
    connected
        .await
        .map_err(|_| HostError::QemuDied(format!("its monitor did not open within {:?}", MONITOR.0)))
}

/// Translates the monitor's words.
fn told(pid: u32, log: PathBuf, tell: Tell) -> impl Fn(Said) + Send + 'static {
    move |said| match said {
        Said::Event(name, data) => match name.as_str() {
            "GUEST_PANICKED" => tell(Event::Panicked),
            "BLOCK_IO_ERROR" if data.get("nospace").and_then(serde_json::Value::as_bool) == Some(true) => {
                tell(Event::DiskFull);
            }
            "RESUME" => tell(Event::Resumed),
            _ => tracing::debug!("QEMU: {name} {data}"),
        },
        Said::Status(status) => match status.as_str() {
            "guest-panicked" => tell(Event::Panicked),
            "io-error" => tell(Event::DiskFull),
            _ => {}
        },
        Said::Gone => {
            // The monitor closes before the process is gone, and with it the lock of the data disk.
            let (log, tell) = (log.clone(), tell.clone());
            tokio::spawn(async move {
                let deadline = Instant::now() + GONE.0;
                while platform::alive(pid) && Instant::now() < deadline {
                    tokio::time::sleep(GONE.1).await; // it may be an earlier daemon's child: no event for its end
                }
                if platform::alive(pid) {
                    platform::end(pid, true);
                }
                tell(Event::Exited(tail(&log, SAID_LINES)));
            });
        }
    }
}

async fn version(program: &Path) -> Result<(u32, u32), HostError> {
    let missing = |why: String| HostError::QemuMissing(format!("{}: {why}", program.display()));
    let output =
        timeout(VERSION_LIMIT, AsyncCommand::new(program).arg("--version").kill_on_drop(true).output())
            .await
            .map_err(|_| missing("it does not answer".into()))?
            .map_err(|error| missing(error.to_string()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| missing(format!("it does not say its version but {:?}", text.trim())))
}

/// `QEMU emulator version 10.0.2 (Debian ...)`
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split("version ").nth(1)?.split(['.', ' ', '\n']);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn arguments(home: &Home, settings: &Settings, image: &Image, accel: Accel, shares: &Shares) -> Vec<String> {
    let path = |p: PathBuf| p.display().to_string().replace(',', ",,"); // QEMU's own escape
    let file = |name: &str| path(image.folder.join(name));
    // Machine, processor where it is translated, and the console's name.
    let (machine, translated, console) = match parts::arch() {
        "arm64" => ("virt", "cortex-a72", " console=ttyAMA0"),
        _ => ("q35", TRANSLATED, ""),
    };
    let append = format!(
        "{}{console} coracle.root=/dev/vda coracle.data=/dev/vdb coracle.net={NET} {LOOPBACK_BY_LINK}{}{} {}",
        image.cmdline,
        shares.boot_arguments(),
        routes::boot_argument(),
        settings.kernel_arguments
    );
    let memory = settings.memory_mib;
    let (accel, cpu) = match accel {
        Accel::Kvm => ("kvm", "host"),
        Accel::Tcg => ("tcg,thread=multi", translated),
    };
    // Whole paths that aren't options' values need no escape.
    let plain = |name: &str| image.folder.join(name).display().to_string();
    let mut pairs: Vec<(&str, String)> = vec![
        ("-name", "coracle".into()),
        ("-machine", format!("{machine},memory-backend=memory")),
        ("-accel", accel.into()),
        ("-cpu", cpu.into()),
        ("-smp", settings.cpus.to_string()),
        ("-m", format!("{memory}M")),
        // Memory that other processes can map (shares) and that pages can be given back from.
        ("-object", format!("memory-backend-memfd,id=memory,size={memory}M,share=on")),
        ("-kernel", plain("kernel")),
        ("-initrd", plain("initrd")),
        ("-append", append),
        ("-drive", format!("if=none,id=root,format=raw,readonly=on,file={}", file("root.erofs"))),
        ("-device", "virtio-blk-pci,drive=root".into()),
        (
            "-drive",
            format!(
                "if=none,id=data,format=raw,cache=writeback,discard=unmap,detect-zeroes=unmap,werror=stop,file={}",
                path(home.disk())
            ),
        ),
        ("-device", "virtio-blk-pci,drive=data".into()),
        ("-device", "virtio-serial-pci".into()),
        ("-chardev", format!("socket,id=link,server=on,wait=off,path={}", path(home.link_socket()))),
        ("-device", "virtserialport,chardev=link,name=org.coracle.link".into()),
        ("-netdev", "user,id=net".into()),
        ("-device", "virtio-net-pci,netdev=net,romfile=".into()),
        ("-device", "virtio-rng-pci".into()),
        ("-device", "virtio-balloon-pci,free-page-reporting=on".into()),
        ("-device", "pvpanic-pci".into()),
        ("-chardev", format!("file,id=console,append=on,path={}", path(home.console_log()))),
        ("-serial", "chardev:console".into()),
        ("-chardev", format!("socket,id=qmp,server=on,wait=off,path={}", path(home.qmp_socket()))),
        ("-mon", "chardev=qmp,mode=control".into()),
        ("-pidfile", home.machine("qemu.pid").display().to_string()),
    ];
    pairs.extend(shares.devices());
    let flags = ["-nodefaults", "-no-user-config", "-no-reboot"].map(str::to_owned);
    let display = ["-display", "none"].map(str::to_owned);
    let pairs = pairs.into_iter().flat_map(|(option, value)| [option.to_owned(), value]);
    flags.into_iter().chain(display).chain(pairs).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_qemu_says_them() {
        assert_eq!(
            parse_version("QEMU emulator version 10.0.2 (Debian 1:10.0.2+ds-2)\nCopyright"),
            Some((10, 0))
        );
        assert_eq!(parse_version("QEMU emulator version 7.2.17 (x)"), Some((7, 2)));
        assert_eq!(parse_version("something else"), None);
    }
}

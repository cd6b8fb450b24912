//! Linux's own.

use std::{fs, io, path::Path};

pub use super::unix::home_in_profile as default_home;
use crate::{login::Entry, settings::DriverKind};

/// What runs the engine where the user chose nothing.
pub const DEFAULT_DRIVER: DriverKind = DriverKind::Qemu;
/// What can run it here; vfkit and krunkit are macOS's and wsl Windows': here they are what the tests put in their places.
pub const DRIVERS: &[DriverKind] =
    &[DriverKind::Qemu, DriverKind::Local, DriverKind::Vfkit, DriverKind::Krunkit, DriverKind::Wsl];
/// Where programs are that `PATH` may not name: nowhere.
pub const PROGRAM_FOLDERS: &[&str] = &[];
/// Names that the computer knows by itself.
pub const HOSTS: Option<&str> = Some("/etc/hosts");
/// Where this computer's resolvers are listed.
pub const RESOLV_CONF: Option<&str> = Some("/etc/resolv.conf");
/// Where those of single domains are.
pub const RESOLVERS_OF_DOMAINS: Option<&str> = None;

/// Whether a process' command line has `word`: a pid alone says little, after a reboot it may be anybody's.
pub fn command_names(pid: u32, word: &str) -> bool {
    let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(word)
}

/// A place below a folder where something is mounted.
pub fn mounted_below(folder: &Path) -> Option<std::path::PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    let folder = fs::canonicalize(folder).ok()?;
    let table = fs::read("/proc/self/mountinfo").ok()?;
    let places = table.split(|b| *b == b'\n').filter_map(|line| line.split(|b| *b == b' ').nth(4));
    let mut places = places.map(|place| Path::new(&std::ffi::OsString::from_vec(unescape(place))).to_owned());
    places.find(|place| place.starts_with(&folder) && *place != folder)
}

/// `\040` and its like, as the kernel writes blanks in its tables.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let code = after.get(..3).and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) if *first == b'\\' => {
                out.push(byte);
                rest = &after[3..];
            }
            _ => {
                out.push(*first);
                rest = after;
            }
        }
    }
    out
}

/// On Linux a low port is root's on every address.
pub const LOW_PORTS_ON_ALL_ADDRESSES: bool = false;

/// How a port is had that is refused to ordinary users.
pub fn low_ports(port: u16) -> String {
    format!(
        "ports below 1024 are root's here; `sudo sysctl net.ipv4.ip_unprivileged_port_start={port}` gives them to \
         everybody from {port} on, or publish another port"
    )
}

/// Where this computer's network leads.
pub fn routes() -> Vec<crate::routes::Subnet> {
    crate::routes::of_linux(&fs::read_to_string("/proc/net/route").unwrap_or_default())
}

/// Tells an engine that the power goes: it stops its containers in order and ends; told again, it kills them.
pub fn power_fails(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process};
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        let _ = kill_process(pid, Signal::POWER);
    }
}

/// What starts the daemon when the user logs in: a unit of the user's own systemd, and the link that enables it.
pub fn login_entry(program: &Path, home: Option<&Path>) -> Result<Entry, String> {
    let folder = std::env::var_os("XDG_CONFIG_HOME")
        .map(std::path::PathBuf::from)
        .filter(|folder| folder.is_absolute())
        .or_else(|| std::env::home_dir().map(|home| home.join(".config")))
        .ok_or("there is no home folder")?
        .join("systemd/user");
    let unit = folder.join("coracle.service");
    let link = folder.join("default.target.wants/coracle.service");
    Ok(Entry { path: unit, text: unit_of(program, home), link: Some(link) })
}

/// The same unit as the packages' (`installer/linux/coracle.service`), for a program anywhere.
fn unit_of(program: &Path, home: Option<&Path>) -> String {
    let quoted =
        |text: String| format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"").replace('%', "%%"));
    let environment = home.map_or(String::new(), |home| {
        format!("Environment={}\n", quoted(format!("CORACLE_HOME={}", home.display())))
    });
    let exec = format!("{environment}ExecStart={} ", quoted(program.display().to_string()));
    include_str!("../../../../installer/linux/coracle.service").replace("ExecStart=/usr/bin/coracle ", &exec)
}

/// Time Machine is macOS'.
pub fn leave_out_of_backups(_folder: &Path) {}

/// Rosetta is macOS'.
pub fn has_rosetta() -> bool {
    false
}

/// Whether KVM can make a machine with a processor, or why not: opening the device says little.
pub fn kvm_works() -> Result<(), String> {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    const KVM_GET_API_VERSION: libc::Ioctl = 0xAE00;
    const KVM_CREATE_VM: libc::Ioctl = 0xAE01;
    const KVM_CREATE_VCPU: libc::Ioctl = 0xAE41;
    const API_VERSION: i32 = 12;
    let kvm = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").map_err(|e| match e.kind() {
        io::ErrorKind::PermissionDenied => {
            "/dev/kvm may not be opened by this user: `sudo usermod -aG kvm $USER`, then log in again"
                .to_owned()
        }
        _ => format!("/dev/kvm: {e}"),
    })?;
    let call = |fd: i32, what: libc::Ioctl, name: &str| {
        // SAFETY: these three take an integer argument and touch no memory of ours.
        match unsafe { libc::ioctl(fd, what, 0) } {
            n if n >= 0 => Ok(n),
            _ => Err(format!("{name}: {}", io::Error::last_os_error())),
        }
    };
    let version = call(kvm.as_raw_fd(), KVM_GET_API_VERSION, "KVM_GET_API_VERSION")?;
    if version != API_VERSION {
        return Err(format!("KVM speaks version {version}, not {API_VERSION}"));
    }
    // SAFETY: the calls give new descriptors that nobody else owns.
    let machine = unsafe { OwnedFd::from_raw_fd(call(kvm.as_raw_fd(), KVM_CREATE_VM, "KVM_CREATE_VM")?) };
    // SAFETY: as above.
    let _cpu =
        unsafe { OwnedFd::from_raw_fd(call(machine.as_raw_fd(), KVM_CREATE_VCPU, "KVM_CREATE_VCPU")?) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blanks_in_the_kernels_tables() {
        assert_eq!(unescape(br"/a\040b\134c"), br"/a b\c");
        assert_eq!(unescape(br"/a\04"), br"/a\04");
    }

    #[test]
    fn a_unit_counts_by_its_link() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("coracle.service"), dir.path().join("wants/coracle.service"));
        let entry = Entry { path: path.clone(), text: "x".into(), link: Some(link.clone()) };
        fs::write(&path, "by hand, and not enabled").unwrap();
        assert!(!entry.is_enabled());
        entry.enable().unwrap();
        entry.enable().unwrap();
        assert!(entry.is_enabled());
        assert_eq!(fs::read_to_string(&link).unwrap(), "x");
        entry.disable().unwrap();
        assert!(!entry.is_enabled() && !path.exists());
    }

    #[test]
    fn the_units_program_is_this_one_whatever_its_path() {
        let unit = unit_of(Path::new("/opt/my \"apps\"/100%/coracle"), Some(Path::new("/srv/c")));
        assert!(unit.contains(r#"ExecStart="/opt/my \"apps\"/100%%/coracle" daemon"#), "{unit}");
        assert!(unit.contains("Environment=\"CORACLE_HOME=/srv/c\"\n"), "{unit}");
        assert!(unit.contains("KillMode=process\n"), "{unit}");
        assert!(!unit_of(Path::new("/usr/bin/coracle"), None).contains("Environment"));
    }
}

//! Hosted: the same guest on a Linux that is somebody else's, a distribution of WSL2: there is no kernel or PID 1 of
//! ours, so it makes namespaces of its own and is PID 1 in them.
//!
//! ```text
//! coracle-guest roots                   prints the builds whose roots are here, one a line
//! coracle-guest unpack BUILD < tar.gz   puts another root here, whole or not at all; the others, but the newest, go
//! coracle-guest hosted BUILD WORD...    runs that root until it is off; the words are boot arguments
//!   network, cgroup                     network, cgroup     in the distribution's namespaces
//!     `--> PID 1 of new ones            enter               mounts the root, exec's *its* coracle-guest
//! coracle-guest bridge                  the link: standard input and output are its channel
//! coracle-guest end                     asks the guest that runs to stop in order
//!
//! /roots/BUILD           roots; the archive has one, and around it what a distribution is imported with: this program,
//!                        busybox, and files for WSL (which writes its own into the distribution's `/etc`)
//! /data                  what containers, images and volumes are: the same for every root
//! /data/link.sock        the link, inside and out: a file system is shared, the mounts are not
//! ```
//!
//! These words are what an old distribution is upgraded by: they stay as they are.

mod cgroup;
mod network;

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
};

use nix::{mount::MsFlags, sched::CloneFlags};

use crate::{GuestError, IN_ROOT, boot, cmdline::Arguments, disk, say, sys};

/// First argument of PID 1 of the namespaces, and the word after [`IN_ROOT`] that says so in the root.
pub const ENTER: &str = "enter";
/// Where the link is found.
pub const LINK: &str = "/data/link.sock";
/// PID 1 of the guest that runs, as the distribution counts.
const PID: &str = "/data/guest.pid";
const ROOTS: &str = "/roots";
/// Where the root is mounted before it becomes `/`.
const NEW_ROOT: &str = "/root";
const GUEST: &str = "/usr/bin/coracle-guest";
const BUSYBOX: &str = "/usr/bin/busybox";
/// Bytes of a build's name.
const BUILD_LEN: usize = 64;
/// Bytes the bridge copies at a time.
const COPY: usize = 64 * 1024;

/// One of the words; `None` for anything else.
pub fn command(word: &str, args: &[String]) -> Option<ExitCode> {
    let done = match (word, args) {
        ("roots", []) => roots().map(|all| all.iter().for_each(|build| println!("{build}"))),
        ("unpack", [build]) => unpack(build, &mut io::stdin().lock()),
        ("hosted", [build, words @ ..]) => hosted(build, words),
        ("bridge", []) => bridge(),
        ("end", []) => end(),
        _ => return None,
    };
    Some(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(error);
            ExitCode::FAILURE
        }
    })
}

/// Builds whose roots are here, sorted.
fn roots() -> Result<Vec<String>, GuestError> {
    let entries = fs::read_dir(ROOTS).map_err(GuestError::io("reading", ROOTS))?;
    let names = entries.flatten().filter_map(|e| e.file_name().into_string().ok());
    let mut all: Vec<String> = names.filter(|name| is_build(name)).collect();
    all.sort();
    Ok(all)
}

/// A name that is a file's name and nothing else: what is being unpacked has another.
fn is_build(name: &str) -> bool {
    (1..=BUILD_LEN).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric())
}

fn checked(build: &str) -> Result<&str, GuestError> {
    is_build(build)
        .then_some(build)
        .ok_or_else(|| GuestError::Invalid(format!("{build:?} is no build: letters and digits are wanted")))
}

fn root_of(build: &str) -> Result<PathBuf, GuestError> {
    let root = Path::new(ROOTS).join(checked(build)?);
    if root.is_dir() {
        Ok(root)
    } else {
        Err(GuestError::Invalid(format!("there is no root of build {build} here")))
    }
}

/// Unpacks a root. Cut short it leaves a `.part` behind, which the next one takes away; the newest root that was here
/// stays, so that an upgrade can be gone back on.
fn unpack(build: &str, archive: &mut impl Read) -> Result<(), GuestError> {
    let root = Path::new(ROOTS).join(checked(build)?);
    if root.is_dir() {
        io::copy(archive, &mut io::sink()).map_err(GuestError::io("reading", "the root's archive"))?;
        return Ok(());
    }
    fs::create_dir_all(ROOTS).map_err(GuestError::io("making", ROOTS))?;
    clear(|name| name.ends_with(".part"))?;
    let part = root.with_extension("part");
    let name = part.display().to_string();
    fs::create_dir(&part).map_err(GuestError::io("making", name.clone()))?;
    let mut tar = Command::new(BUSYBOX)
        .args(["tar", "-xzf", "-", "-C", &name, &format!("{}/{build}", ROOTS.trim_start_matches('/'))])
        .stdin(Stdio::piped())
        .spawn()
        .map_err(GuestError::io("running", BUSYBOX))?;
    let copied = io::copy(archive, &mut tar.stdin.take().expect("piped"));
    let ended = tar.wait().map_err(GuestError::io("running", BUSYBOX))?;
    if !ended.success() || copied.is_err() {
        let _ = fs::remove_dir_all(&part);
        let message = format!("{ended}, the archive: {copied:?}");
        return Err(GuestError::Program { program: "tar", message });
    }
    let within = part.join(ROOTS.trim_start_matches('/')).join(build);
    let guest = within.join(GUEST.trim_start_matches('/'));
    if !guest.is_file() {
        let _ = fs::remove_dir_all(&part);
        return Err(GuestError::Invalid(format!("the archive has no {GUEST} of build {build}")));
    }
    nix::unistd::sync();
    let newest = newest()?;
    fs::rename(&within, &root).map_err(GuestError::io("placing", name))?;
    nix::unistd::sync();
    clear(|name| name != build && Some(name) != newest.as_deref())
}

/// The root that came last.
fn newest() -> Result<Option<String>, GuestError> {
    let entries = fs::read_dir(ROOTS).map_err(GuestError::io("reading", ROOTS))?;
    let of = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().ok().filter(|name| is_build(name))?;
        Some((entry.metadata().ok()?.modified().ok()?, name))
    };
    Ok(entries.flatten().filter_map(of).max().map(|(_, name)| name))
}

fn clear(goes: impl Fn(&str) -> bool) -> Result<(), GuestError> {
    for entry in fs::read_dir(ROOTS).map_err(GuestError::io("reading", ROOTS))?.flatten() {
        if entry.file_name().to_str().is_some_and(&goes) {
            let path = entry.path();
            fs::remove_dir_all(&path).map_err(GuestError::io("removing", path.display().to_string()))?;
        }
    }
    Ok(())
}

/// Runs a root until it is off. Its end is this one's, and the other way round.
fn hosted(build: &str, words: &[String]) -> Result<(), GuestError> {
    let root = root_of(build)?;
    Arguments::parse(&words.join(" "))?;
    fs::create_dir_all(disk::MOUNT).map_err(GuestError::io("making", disk::MOUNT))?;
    boot::raise_settings_of_all();
    let group = cgroup::make();
    let network = network::Network::choose()?;
    let failed = |e: nix::errno::Errno| GuestError::io("making", "namespaces")(e.into());
    let own = fs::File::open("/proc/self/ns/pid").map_err(GuestError::io("opening", "/proc/self/ns/pid"))?;
    // Only the next child is born into the new PID namespace, and becomes its PID 1.
    nix::sched::unshare(CloneFlags::CLONE_NEWPID).map_err(failed)?;
    let mut command = Command::new("/proc/self/exe");
    command.args([ENTER, &root.display().to_string()]).args(words).args(network.words());
    sys::in_namespaces(&mut command, group.clone());
    let spawned = command.spawn().map_err(GuestError::io("making", "namespaces"));
    nix::sched::setns(&own, CloneFlags::CLONE_NEWPID).map_err(failed)?;
    let mut child = spawned?;
    if let Err(error) = fs::write(PID, child.id().to_string()) {
        say(format_args!("{PID}: {error}"));
    }
    if let Err(error) = network.connect(child.id(), &root) {
        say(format_args!("the network is not up: {error}")); // without it the engine still runs what it has
    }
    let ended = child.wait().map_err(GuestError::io("waiting for", "the guest"))?;
    network.disconnect(&root);
    let _ = fs::remove_file(PID);
    if let Some(group) = group {
        cgroup::remove(&group);
    }
    if ended.success() {
        return Ok(());
    }
    let how =
        ended.signal().map_or_else(|| ended.to_string(), |signal| format!("was ended by signal {signal}"));
    Err(GuestError::Program { program: "the guest", message: how })
}

/// Asks the guest that runs here to stop in order.
fn end() -> Result<(), GuestError> {
    let text = fs::read_to_string(PID).map_err(GuestError::io("reading", PID))?;
    let pid = text.trim().parse().map_err(|_| GuestError::Invalid(format!("{PID}: no pid: {text:?}")))?;
    sys::signal(pid, nix::sys::signal::Signal::SIGTERM);
    Ok(())
}

/// PID 1 of the new namespaces: to the root, and on in there. Returns only when that fails.
pub fn enter(root: &str, words: &[String]) -> Result<std::convert::Infallible, GuestError> {
    let none = "";
    sys::make_private("/")?;
    sys::bind(root, NEW_ROOT)?;
    sys::make_read_only(NEW_ROOT)?;
    sys::bind(disk::MOUNT, &format!("{NEW_ROOT}{}", disk::MOUNT))?;
    let run = format!("{NEW_ROOT}/run");
    sys::mount("tmpfs", &run, "tmpfs", MsFlags::MS_NOSUID | MsFlags::MS_NODEV, "mode=755")?;
    // The host's folders, while the distribution's mounts can still be seen.
    for share in Arguments::parse(&words.join(" "))?.shares {
        let (from, to) = (share.seen_here(), format!("{NEW_ROOT}{}", share.place()));
        let bound = fs::create_dir_all(&to)
            .map_err(GuestError::io("making", to.clone()))
            .and_then(|()| sys::bind(&from, &to));
        if let Err(error) = bound {
            say(error); // whoever asks for it finds an empty folder
        }
    }
    for (kind, place) in [("devtmpfs", "/dev"), ("proc", "/proc"), ("sysfs", "/sys")] {
        sys::mount(kind, &format!("{NEW_ROOT}{place}"), kind, MsFlags::MS_NOSUID, none)?;
    }
    sys::switch_root(NEW_ROOT)?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    sys::exec(GUEST, &[&[IN_ROOT, ENTER], &words[..]].concat())
}

/// Passes bytes between standard input and output and the link's socket, until either side has ended.
fn bridge() -> Result<(), GuestError> {
    let failed = |what: &'static str| GuestError::io(what, LINK);
    let socket = std::os::unix::net::UnixStream::connect(LINK).map_err(failed("connecting to"))?;
    let mut up = socket.try_clone().map_err(failed("opening"))?;
    // Standard output as it is: what is buffered would wait for a line's end.
    let mut out = fs::File::from(sys::standard_output().map_err(failed("opening"))?);
    let mut input = io::stdin().lock();
    std::thread::spawn(move || {
        let mut down = socket;
        let _ = pump(&mut down, &mut out);
        // The guest has gone: a read of standard input may be under way, and nothing would end it.
        std::process::exit(0);
    });
    let _ = pump(&mut input, &mut up);
    Ok(())
}

fn pump(from: &mut impl Read, to: &mut impl Write) -> io::Result<()> {
    let mut bytes = vec![0; COPY];
    loop {
        match from.read(&mut bytes) {
            Ok(0) => return Ok(()),
            Ok(n) => to.write_all(&bytes[..n])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_builds_name_is_no_path() {
        assert!(is_build("0123abcd") && checked("ab12").is_ok());
        for bad in ["", ".", "..", "a/b", "a.part", "a b", &"a".repeat(BUILD_LEN + 1)] {
            assert!(checked(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn words_that_are_no_commands_are_nobodys() {
        assert!(command("roots", &["x".into()]).is_none());
        assert!(command("hosted", &[]).is_none());
        assert!(command("else", &[]).is_none());
    }
}

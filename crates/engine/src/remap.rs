//! `userns-remap`: containers in a user namespace, in which root is somebody without rights on this host.
//!
//! Files lie on disk with the ids that containers see, mapped or not (the runtime shifts them as they are mounted), so
//! the setting may change at any time, and there is one store of images, containers and volumes. What is bound from
//! the host keeps the host's owners: of a mapped container, nobody's.

use std::path::Path;

use oci_spec::runtime::{LinuxIdMapping, LinuxIdMappingBuilder};

use crate::container::config::HostConfig;
use crate::error::{Error, Result};

/// Who `default` means, as with dockerd.
const DEFAULT_USER: &str = "dockremap";
/// Where a range for [`DEFAULT_USER`] is looked for, and how many ids it has: useradd(8)'s own defaults.
const FIRST: u32 = 100_000;
const COUNT: u32 = 65_536;

/// Ranges of ids: inside, outside, how many.
pub type Ranges = Vec<(u32, u32, u32)>;

/// The ids that containers' ids stand for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Remap {
    /// Of users.
    pub uids: Ranges,
    /// Of groups.
    pub gids: Ranges,
}

impl Remap {
    /// What the setting means by the files in `etc` (passwd, group, subuid, subgid); `None`: nothing is mapped. Ranges of
    /// [`DEFAULT_USER`] that nobody has made are taken behind all others, and noted there.
    pub fn read(setting: &str, etc: &Path) -> Result<Option<Self>> {
        let failed = |words: String| Error::invalid(format!("userns-remap: {words}"));
        let (name, uid) = user(setting, etc).map_err(failed)?;
        if name == "root" {
            tracing::warn!("userns-remap: root cannot be remapped with itself; user namespaces are off");
            return Ok(None);
        }
        let own = |kind: &str| ranges(&text(etc, &format!("sub{kind}")), &name, uid);
        let (mut uids, mut gids) = (own("uid"), own("gid"));
        if setting.split(':').next() == Some("default") && uids.is_empty() && gids.is_empty() {
            let free = free(&[text(etc, "subuid"), text(etc, "subgid")]);
            let free = free.ok_or_else(|| failed("there is no free range of ids".into()))?;
            for kind in ["uid", "gid"] {
                note(&etc.join(format!("sub{kind}")), free);
            }
            (uids, gids) = (vec![(0, free, COUNT)], vec![(0, free, COUNT)]);
        }
        for (kind, found) in [("uid", &uids), ("gid", &gids)] {
            if found.is_empty() {
                return Err(failed(format!("no sub{kind} ranges found for user {name:?}")));
            }
        }
        Ok(Some(Self { uids, gids }))
    }

    /// The mapping that a process is in; `None`: it sees the host's ids.
    pub fn of_process(uid_map: &str, gid_map: &str) -> Option<Self> {
        let read = |text: &str| -> Ranges {
            let line = |line: &str| {
                let mut numbers = line.split_whitespace().map(|n| n.parse().ok());
                Some((numbers.next()??, numbers.next()??, numbers.next()??))
            };
            text.lines().filter_map(line).collect()
        };
        let is_host = |ranges: &Ranges| matches!(ranges[..], [(0, 0, u32::MAX)]);
        let found = Self { uids: read(uid_map), gids: read(gid_map) };
        (!found.uids.is_empty() && !is_host(&found.uids)).then_some(found)
    }

    /// For the runtime's specification.
    pub fn mappings(ranges: &Ranges) -> Result<Vec<LinuxIdMapping>> {
        let one = |&(inside, outside, count): &(u32, u32, u32)| {
            LinuxIdMappingBuilder::default().container_id(inside).host_id(outside).size(count).build()
        };
        let all = ranges.iter().map(one).collect::<std::result::Result<_, _>>();
        all.map_err(|e| Error::internal(e.to_string()))
    }
}

/// What a mapped container cannot have, in Docker's words.
pub fn check(host: &HostConfig, own_runtime: bool) -> Result<()> {
    let refused = [
        (
            host.privileged,
            "privileged mode is incompatible with user namespaces.  You must run the container in the host namespace when running privileged mode",
        ),
        (
            host.network_mode == "host",
            "cannot share the host's network namespace when user namespaces are enabled",
        ),
        // Their layers could be mapped as the container's own are: nobody has asked for it yet.
        (
            host.mounts.iter().any(|m| m.r#type == "image"),
            "image mounts cannot be used when user namespaces are enabled: run the container in the host namespace (--userns=host)",
        ),
        (host.pid_mode == "host", "cannot share the host PID namespace when user namespaces are enabled"),
        (
            !own_runtime,
            "other runtimes cannot be used when user namespaces are enabled: run the container in the host namespace (--userns=host)",
        ),
    ];
    match refused.into_iter().find(|(is, _)| *is) {
        Some((_, words)) => Err(Error::invalid(words)),
        None => Ok(()),
    }
}

fn text(etc: &Path, name: &str) -> String {
    std::fs::read_to_string(etc.join(name)).unwrap_or_default()
}

/// The name in the first field of the line that has `value` as its field number `at`.
fn entry(text: &str, at: usize, value: &str) -> Option<(String, u32)> {
    text.lines().map(|line| line.split(':').collect::<Vec<_>>()).find_map(|fields| {
        (fields.get(at) == Some(&value)).then_some(())?;
        Some(((*fields.first()?).to_owned(), fields.get(2)?.parse().ok()?))
    })
}

/// The user whose ranges are meant, by dockerd's rules and in its words. The group must be there, and nothing more.
fn user(setting: &str, etc: &Path) -> std::result::Result<(String, Option<u32>), String> {
    let (passwd, group) = (text(etc, "passwd"), text(etc, "group"));
    let mut parts = setting.split(':');
    let (first, second) = (parts.next().unwrap_or_default(), parts.next());
    if first.is_empty() || parts.next().is_some() {
        return Err(format!("invalid user/group specification in --userns-remap: {setting:?}"));
    }
    let group_of = |id: &str| match id.parse::<u32>() {
        Ok(gid) => entry(&group, 2, id).map(drop).ok_or(format!("Gid {gid} has no entry in /etc/group")),
        Err(_) => {
            entry(&group, 0, id).map(drop).ok_or(format!("Error during gid lookup for {id:?}: no such group"))
        }
    };
    let found = if first.parse::<u32>().is_ok() {
        entry(&passwd, 2, first).ok_or(format!("Uid {first} has no entry in /etc/passwd"))?
    } else if first == "default" {
        // Needs no account: nobody logs in by it.
        let uid = entry(&passwd, 0, DEFAULT_USER).map(|(_, uid)| uid);
        return Ok((DEFAULT_USER.into(), uid));
    } else {
        entry(&passwd, 0, first).ok_or(format!("Error during uid lookup for {first:?}: no such user"))?
    };
    group_of(second.unwrap_or(first))?;
    Ok((found.0, Some(found.1)))
}

/// The ranges that a file of subordinate ids (subuid(5)) gives to a user, one after the other inside.
fn ranges(text: &str, name: &str, uid: Option<u32>) -> Ranges {
    let uid = uid.map(|uid| uid.to_string());
    let mut inside = 0u32;
    let mut found = Vec::new();
    for (owner, start, count) in lines(text) {
        if owner != name && Some(owner) != uid.as_deref() {
            continue;
        }
        let Some(next) = inside.checked_add(count) else { break };
        found.push((inside, start, count));
        inside = next;
    }
    found
}

/// Owner, first id, count; ranges that go past the last id are none.
fn lines(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (owner, start, count) =
            (fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (count > 0 && u32::checked_add(start, count).is_some()).then_some((owner, start, count))
    })
}

/// The first id behind all ranges.
fn free(files: &[String]) -> Option<u32> {
    let ends = files.iter().flat_map(|text| lines(text)).map(|(_, start, count)| start + count);
    let first = ends.max().unwrap_or_default().max(FIRST);
    first.checked_add(COUNT).map(|_| first)
}

/// So that nobody else gets these ids. A system that cannot be written to knows no others.
fn note(file: &Path, start: u32) {
    use std::io::Write;
    let line = format!("{DEFAULT_USER}:{start}:{COUNT}\n");
    let done = std::fs::File::options().create(true).append(true).open(file);
    if let Err(e) = done.and_then(|mut f| f.write_all(line.as_bytes())) {
        tracing::warn!("{}: {e}: the range is used all the same", file.display());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn etc(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let accounts = [
            ("passwd", "root:x:0:0::/:/bin/sh\nanna:x:1000:1001::/:/bin/sh\n"),
            ("group", "root:x:0:\nanna:x:1000:\nstaff:x:50:\n"),
        ];
        for (name, text) in accounts.iter().chain(files) {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        folder
    }

    #[test]
    fn users_and_groups_are_found_by_name_and_number() {
        let files = etc(&[
            ("subuid", "bob:1:1\nanna:200000:1000\n1000:300000:64536\n"),
            ("subgid", "anna:400000:65536\n"),
        ]);
        let wanted = Remap {
            uids: vec![(0, 200_000, 1000), (1000, 300_000, 64_536)],
            gids: vec![(0, 400_000, 65_536)],
        };
        for setting in ["anna", "1000", "anna:staff", "1000:50", "anna:50"] {
            assert_eq!(Remap::read(setting, files.path()).unwrap().as_ref(), Some(&wanted), "{setting}");
        }
        assert_eq!(Remap::read("root", files.path()).unwrap(), None);
        for (setting, words) in [
            ("bob", "Error during uid lookup for \"bob\""),
            ("7", "Uid 7 has no entry in /etc/passwd"),
            ("anna:nope", "Error during gid lookup for \"nope\""),
            ("anna:7", "Gid 7 has no entry in /etc/group"),
            ("a:b:c", "invalid user/group specification"),
        ] {
            let said = Remap::read(setting, files.path()).unwrap_err().message;
            assert!(said.contains(words), "{setting}: {said}");
        }
    }

    #[test]
    fn a_default_range_is_taken_behind_all_others_and_noted() {
        let files = etc(&[("subuid", "anna:200000:65536\n"), ("subgid", "broken\nanna:165536:65536\n")]);
        let first = Remap::read("default", files.path()).unwrap().unwrap();
        assert_eq!(first.uids, [(0, 265_536, 65_536)]);
        assert_eq!(Remap::read("default", files.path()).unwrap().unwrap(), first);
        let noted = std::fs::read_to_string(files.path().join("subgid")).unwrap();
        assert!(noted.ends_with("dockremap:265536:65536\n"), "{noted}");
        let nothing = etc(&[]);
        assert_eq!(Remap::read("default", nothing.path()).unwrap().unwrap().gids, [(0, 100_000, 65_536)]);
        // The last ids are taken.
        let full = etc(&[("subuid", "anna:4294900000:67295\n")]);
        assert!(Remap::read("default", full.path()).is_err());
    }

    #[test]
    fn a_process_is_mapped_unless_it_sees_all_ids() {
        assert_eq!(Remap::of_process("         0          0 4294967295\n", "0 0 4294967295\n"), None);
        let mapped = Remap::of_process("         0     100000      65536\n", "0 100000 65536\n").unwrap();
        assert_eq!(mapped.uids, [(0, 100_000, 65_536)]);
        assert_eq!(Remap::of_process("", ""), None);
    }
}

//! Users by name: numbers, home and groups from the image's own `/etc/passwd` and `/etc/group`.

use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};
use crate::rootfs::{Root, open_inside};

/// Largest `/etc/passwd` or `/etc/group` that is read, in bytes.
const FILE_LIMIT: u64 = 1 << 20;

/// Who a process runs as.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// User number.
    pub uid: u32,
    /// Group number.
    pub gid: u32,
    /// Additional groups.
    pub groups: Vec<u32>,
    /// Home folder, `/` when the image names none.
    pub home: String,
}

/// Resolves `user[:group]` (names or numbers; empty: root) and `--group-add` inside the root file system.
pub fn resolve(root: &Path, user: &str, group_add: &[String]) -> Result<Identity> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    identity(&passwd, &group, user, group_add)
}

/// Resolves `user[:group]` in a container's files.
pub fn resolve_in(root: &Root, user: &str) -> Result<Identity> {
    let text = |path| root.read(Path::new(path)).and_then(contents);
    identity(&text("/etc/passwd")?, &text("/etc/group")?, user, &[])
}

fn read(root: &Path, path: &str) -> Result<String> {
    contents(open_inside(root, Path::new(path))?)
}

fn contents(file: Option<std::fs::File>) -> Result<String> {
    let Some(file) = file else { return Ok(String::new()) };
    if !file.metadata()?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Resolves `user[:group]` by the contents of `/etc/passwd` and `/etc/group`.
pub fn identity(passwd: &str, group: &str, user: &str, group_add: &[String]) -> Result<Identity> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let number: Option<u32> = user.parse().ok();
    let entry = passwd.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|f| {
        f.len() >= 6 && (f[0] == user || (number.is_some() && f[2].parse() == Ok(number.unwrap_or_default())))
    });
    let (uid, primary, home, name) = match (&entry, number) {
        (Some(f), _) => (f[2].parse().unwrap_or(0), f[3].parse().unwrap_or(0), f[5].to_owned(), Some(f[0])),
        (None, Some(uid)) => (within(uid.into())?, 0, String::new(), None),
        (None, None) if user.parse::<i64>().is_ok() => return Err(out_of_range()),
        (None, None) => {
            return Err(Error::invalid(format!(
                "unable to find user {user}: no matching entries in passwd file"
            )));
        }
    };
    let group_number = |text: &str| -> Result<u32> {
        group
            .lines()
            .map(|l| l.split(':').collect::<Vec<_>>())
            .find(|f| f.len() >= 3 && f[0] == text)
            .and_then(|f| f[2].parse().ok())
            .map_or_else(
                || match text.parse::<i64>() {
                    Ok(gid) => within(gid),
                    Err(_) => {
                        let words = "no matching entries in group file";
                        Err(Error::invalid(format!("unable to find group {text}: {words}")))
                    }
                },
                Ok,
            )
    };
    let mut groups: Vec<u32> = Vec::new();
    let gid = match wanted_group.filter(|g| !g.is_empty()) {
        Some(g) => group_number(g)?,
        None => {
            // With a group named, the user's other groups do not count: as runc does it.
            let member =
                |f: &Vec<&str>| f.len() >= 4 && name.is_some_and(|n| f[3].split(',').any(|m| m == n));
            let lines = group.lines().map(|l| l.split(':').collect::<Vec<_>>());
            groups.extend(lines.filter(member).filter_map(|f| f[2].parse::<u32>().ok()));
            primary
        }
    };
    for extra in group_add {
        groups.push(group_number(extra)?);
    }
    groups.sort_unstable();
    groups.dedup();
    Ok(Identity { uid, gid, groups, home: if home.is_empty() { "/".into() } else { home } })
}

/// A number that a user or a group may have, as Docker limits it.
fn within(number: i64) -> Result<u32> {
    u32::try_from(number).ok().filter(|n| *n <= i32::MAX as u32).ok_or_else(out_of_range)
}

fn out_of_range() -> Error {
    Error::invalid("uids and gids must be in range 0-2147483647")
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\npg:x:70:71::/var/lib/pg:/bin/sh\n";
    const GROUP: &str = "root:x:0:\npg:x:71:\nssl:x:80:pg,other\nstaff:x:50:\n";

    fn who(user: &str, add: &[&str]) -> Result<Identity> {
        identity(PASSWD, GROUP, user, &add.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn names_and_numbers_find_the_same_user() {
        let by_name = who("pg", &[]).unwrap();
        assert_eq!(by_name, Identity { uid: 70, gid: 71, groups: vec![80], home: "/var/lib/pg".into() });
        assert_eq!(who("70", &[]).unwrap(), by_name);
        assert_eq!(who("", &[]).unwrap().home, "/root");
    }

    #[test]
    fn a_number_needs_no_entry_but_a_name_does() {
        assert_eq!(
            who("1234", &[]).unwrap(),
            Identity { uid: 1234, gid: 0, groups: vec![], home: "/".into() }
        );
        assert_eq!(
            who("nobody", &[]).unwrap_err().message,
            "unable to find user nobody: no matching entries in passwd file"
        );
    }

    #[test]
    fn groups_are_named_added_and_sorted() {
        assert_eq!(who("pg:staff", &[]).unwrap().gid, 50);
        assert_eq!(who("pg", &["staff", "7"]).unwrap().groups, [7, 50, 80]);
        assert!(who("pg:nope", &[]).is_err());
    }
}

//! The words of fsutil's protocol (<https://github.com/tonistiigi/fsutil>, `send.go`, `receive.go`).
//!
//! ```text
//!   sender                                receiver
//!     STAT(path 0) STAT(path 1) ... STAT()    files in order, each numbered by its place; empty: these were all
//!                                REQ(n) ...   the contents wanted
//!     DATA(n, bytes)... DATA(n, none)         several may be mixed
//!                                FIN          nothing more is wanted
//!     FIN
//!   ERR(words) from either side ends it
//! ```

use bollard_buildkit_proto::fsutil::types::{Packet, Stat, packet::PacketType};

/// Which way files go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// From the client.
    FromClient,
    /// To the client, as a tree or as one stream of bytes.
    ToClient,
}

impl Method {
    pub(super) fn path(self) -> &'static str {
        match self {
            Self::FromClient => "/moby.filesync.v1.FileSync/DiffCopy",
            Self::ToClient => "/moby.filesync.v1.FileSend/DiffCopy",
        }
    }
}

/// Go's `os.FileMode`: what it has in other places than Linux's `st_mode`.
mod go {
    pub const DIR: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const PIPE: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SETUID: u32 = 1 << 23;
    pub const SETGID: u32 = 1 << 22;
    pub const CHAR_DEVICE: u32 = 1 << 21;
    pub const STICKY: u32 = 1 << 20;
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link.
    Link,
    /// Something else: a device, pipe or socket.
    Other,
}

/// What Go's mode says the entry is.
pub fn kind(stat: &Stat) -> Kind {
    match stat.mode & (go::DIR | go::SYMLINK | go::DEVICE | go::PIPE | go::SOCKET | go::CHAR_DEVICE) {
        0 => Kind::File,
        go::DIR => Kind::Folder,
        go::SYMLINK => Kind::Link,
        _ => Kind::Other,
    }
}

/// Linux's permission bits, with set-id and sticky, of Go's mode.
pub fn permissions(mode: u32) -> u32 {
    let bit = |go: u32, linux: u32| if mode & go != 0 { linux } else { 0 };
    mode & 0o777 | bit(go::SETUID, 0o4000) | bit(go::SETGID, 0o2000) | bit(go::STICKY, 0o1000)
}

/// Go's mode of Linux's `st_mode`.
pub fn go_mode(mode: u32) -> u32 {
    let kind = match mode & libc::S_IFMT {
        libc::S_IFDIR => go::DIR,
        libc::S_IFLNK => go::SYMLINK,
        libc::S_IFBLK => go::DEVICE,
        libc::S_IFCHR => go::DEVICE | go::CHAR_DEVICE,
        libc::S_IFIFO => go::PIPE,
        libc::S_IFSOCK => go::SOCKET,
        _ => 0,
    };
    let bit = |linux: u32, go: u32| if mode & linux != 0 { go } else { 0 };
    kind | mode & 0o777 | bit(0o4000, go::SETUID) | bit(0o2000, go::SETGID) | bit(0o1000, go::STICKY)
}

/// A packet that asks for the contents of file `id`.
pub fn request(id: u32) -> Packet {
    Packet { r#type: PacketType::PacketReq as i32, id, ..Default::default() }
}

/// The last packet of either side.
pub fn finished() -> Packet {
    Packet { r#type: PacketType::PacketFin as i32, ..Default::default() }
}

/// A packet that ends all with these words.
pub fn failed(words: &str) -> Packet {
    Packet { r#type: PacketType::PacketErr as i32, data: words.as_bytes().to_vec(), ..Default::default() }
}

/// A packet with (a part of) file `id`; an empty one is its end.
pub fn data(id: u32, data: Vec<u8>) -> Packet {
    Packet { r#type: PacketType::PacketData as i32, id, data, ..Default::default() }
}

/// A packet that describes a file; without one: these were all.
pub fn describes(stat: Option<Stat>) -> Packet {
    Packet { r#type: PacketType::PacketStat as i32, stat, ..Default::default() }
}

/// What is asked of the client's files, as metadata of the call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selection {
    /// The client's name of the folder (`context`, `dockerfile`).
    pub folder: String,
    /// Only these.
    pub include: Vec<String>,
    /// Not these; `!` takes back.
    pub exclude: Vec<String>,
    /// Only these paths, and what links on them lead to.
    pub follow: Vec<String>,
}

impl Selection {
    /// The metadata that says it.
    pub fn metadata(&self) -> Vec<(String, String)> {
        let mut out = Vec::new();
        let lists = [
            ("include-patterns", &self.include),
            ("exclude-patterns", &self.exclude),
            ("followpaths", &self.follow),
        ];
        push(&mut out, "dir-name", std::slice::from_ref(&self.folder));
        for (name, values) in lists {
            push(&mut out, name, values);
        }
        // It is ours that count, not those of the client's `.dockerignore`.
        if !self.exclude.is_empty() {
            push(&mut out, "override-excludes", &["true".into()]);
        }
        out
    }
}

/// Values that are not ASCII are escaped, and then all of the name are.
fn push(out: &mut Vec<(String, String)>, name: &str, values: &[String]) {
    let plain = values.iter().all(|v| v.bytes().all(|b| (0x20..0x7f).contains(&b)));
    for value in values {
        out.push((name.into(), if plain { value.clone() } else { escape(value) }));
    }
    if !plain {
        out.push((format!("{name}-encoded"), "1".into()));
    }
}

fn escape(text: &str) -> String {
    let fine =
        |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'~' | b'/' | b'*' | b'!');
    let mut out = String::new();
    for byte in text.bytes() {
        if fine(byte) {
            out.push(byte as char);
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gos_modes_are_linuxs_in_other_places() {
        for mode in [libc::S_IFDIR | 0o1777, libc::S_IFREG | 0o4755, libc::S_IFLNK | 0o777] {
            assert_eq!(permissions(go_mode(mode)), mode & 0o7777);
        }
        assert_eq!(kind(&Stat { mode: go_mode(libc::S_IFCHR), ..Default::default() }), Kind::Other);
        assert_eq!(kind(&Stat { mode: 0o644, ..Default::default() }), Kind::File);
    }

    #[test]
    fn names_that_are_not_ascii_are_escaped_and_say_so() {
        let selection = Selection { folder: "c".into(), follow: vec!["ä".into()], ..Default::default() };
        let metadata = selection.metadata();
        assert!(metadata.contains(&("followpaths".into(), "%C3%A4".into())), "{metadata:?}");
        assert!(metadata.contains(&("followpaths-encoded".into(), "1".into())));
    }
}

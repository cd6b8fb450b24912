//! The data disk: made when blank, checked at every boot, grown when the device has grown; never reformatted when it
//! holds anything.
//!
//! ```text
//! look at the device
//!   ext4's magic ------------------> e2fsck -p --> mount --> grow
//!   nothing at all, or our mark ---> mark, mke2fs, unmark --> mount
//!   anything else -----------------> ForeignDisk (left as it is)
//! ```
//!
//! The mark lies in the device's last block, which the file system leaves free ([`RESERVED`]): a disk whose making was
//! cut short (power, kill) is made anew, since it held nothing before.

use std::{
    fs::{File, OpenOptions},
    os::unix::fs::FileExt,
    process::Command,
    time::Duration,
};

use nix::mount::MsFlags;

use crate::{GuestError, say, sys};

/// Where it is mounted.
pub const MOUNT: &str = "/data";
/// Bytes at the device's end that the file system never uses.
const RESERVED: u64 = 1 << 20;
/// Growth that isn't worth a resize.
const GROWTH: u64 = 16 << 20;
/// Bytes looked at to say that a disk is blank: at its beginning and before its end.
const LOOKED_AT: u64 = 16 << 20;
/// Block of ext4, in bytes.
const BLOCK: u64 = 4096;
/// Time in which the device must appear.
const DEVICE_LIMIT: Duration = Duration::from_secs(10);
const MARK: &[u8; 32] = b"coracle: a file system in making";

#[derive(Debug, PartialEq, Eq)]
enum Holds {
    Nothing,
    Ext4,
    Other,
}

/// Checks or makes the file system, mounts it at [`MOUNT`], grows it.
pub fn mount(device: &str) -> Result<(), GuestError> {
    sys::wait_for_path(device.as_ref(), DEVICE_LIMIT)?;
    let file =
        OpenOptions::new().read(true).write(true).open(device).map_err(GuestError::io("opening", device))?;
    let size = sys::size(&file).map_err(GuestError::io("measuring", device))?;
    match holds(&file, size).map_err(GuestError::io("reading", device))? {
        Holds::Nothing => make(device, &file, size)?,
        Holds::Ext4 => check(device)?,
        Holds::Other => return Err(GuestError::ForeignDisk(device.to_owned())),
    }
    drop(file);
    let flags = MsFlags::MS_NOATIME;
    sys::mount(device, MOUNT, "ext4", flags, "discard")?;
    std::fs::create_dir_all(format!("{MOUNT}/config")).map_err(GuestError::io("making", "/data/config"))?;
    if let Err(error) = grow(device) {
        say(error); // a smaller disk is still a disk
    }
    Ok(())
}

/// Where the data lies in a folder of another's file system: nothing to mount or to check.
pub fn folder() -> Result<(), GuestError> {
    std::fs::create_dir_all(format!("{MOUNT}/config")).map_err(GuestError::io("making", "/data/config"))
}

/// Lets the mounted file system fill the device.
pub fn grow(device: &str) -> Result<(), GuestError> {
    let file = File::open(device).map_err(GuestError::io("opening", device))?;
    let size = sys::size(&file).map_err(GuestError::io("measuring", device))?;
    let now = super_block_size(&file).map_err(GuestError::io("reading", device))?;
    if size < now + RESERVED + GROWTH {
        return Ok(());
    }
    let blocks = (size - RESERVED) / BLOCK;
    program("resize2fs", Command::new("resize2fs").args([device, &blocks.to_string()]), |c| c == 0)?;
    say(format_args!("the data disk has grown to {} MiB", size >> 20));
    Ok(())
}

fn holds(file: &File, size: u64) -> std::io::Result<Holds> {
    let mut magic = [0; 2];
    file.read_exact_at(&mut magic, 1024 + 56)?;
    if u16::from_le_bytes(magic) == 0xEF53 && !marked(file, size)? {
        return Ok(Holds::Ext4);
    }
    let end = size.saturating_sub(LOOKED_AT);
    let blank = blank(file, 0, LOOKED_AT.min(size))? && blank(file, end, size - end)?;
    Ok(if blank || marked(file, size)? { Holds::Nothing } else { Holds::Other })
}

fn blank(file: &File, from: u64, len: u64) -> std::io::Result<bool> {
    let mut chunk = vec![0; 1 << 20];
    let mut at = from;
    while at < from + len {
        let want = chunk.len().min((from + len - at) as usize);
        file.read_exact_at(&mut chunk[..want], at)?;
        if chunk[..want].iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += want as u64;
    }
    Ok(true)
}

fn marked(file: &File, size: u64) -> std::io::Result<bool> {
    let mut mark = [0; MARK.len()];
    file.read_exact_at(&mut mark, size - BLOCK)?;
    Ok(mark == *MARK)
}

fn super_block_size(file: &File) -> std::io::Result<u64> {
    let mut block = [0; 1024];
    file.read_exact_at(&mut block, 1024)?;
    let word =
        |at: usize| u64::from(u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]));
    // s_blocks_count_lo, s_blocks_count_hi; s_log_block_size
    Ok((word(4) | word(0x150) << 32) * (1024 << word(24)))
}

fn make(device: &str, file: &File, size: u64) -> Result<(), GuestError> {
    let mark = |bytes: &[u8]| {
        file.write_all_at(bytes, size - BLOCK)
            .and_then(|()| file.sync_all())
            .map_err(GuestError::io("marking", device))
    };
    mark(MARK)?;
    let kib = ((size - RESERVED) / 1024).to_string() + "k";
    let options = "lazy_itable_init=1,lazy_journal_init=1,nodiscard";
    let mut command = Command::new("mke2fs");
    command.args([
        "-q",
        "-F",
        "-t",
        "ext4",
        "-b",
        "4096",
        "-m",
        "1",
        "-L",
        "coracle-data",
        "-E",
        options,
        device,
        &kib,
    ]);
    program("mke2fs", &mut command, |code| code == 0)?;
    mark(&[0; MARK.len()])
}

fn check(device: &str) -> Result<(), GuestError> {
    // 0 clean, 1 repaired, 2 repaired and wants a reboot (only for a mounted root)
    let checked = program("e2fsck", Command::new("e2fsck").args(["-p", device]), |code| code < 4);
    checked.map_err(|error| match error {
        GuestError::Program { message, .. } => GuestError::DamagedDisk(message),
        other => other,
    })
}

fn program(name: &'static str, command: &mut Command, good: impl Fn(i32) -> bool) -> Result<(), GuestError> {
    let output = sys::output(command).map_err(GuestError::io("running", name))?;
    match output.status.code() {
        Some(code) if good(code) => Ok(()),
        _ => {
            let said =
                String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim().replace('\n', "; ");
            Err(GuestError::Program { program: name, message: format!("{} ({said})", output.status) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 20;

    fn disk() -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(SIZE).unwrap();
        file
    }

    #[test]
    fn a_blank_disk_holds_nothing_and_a_byte_is_something() {
        let file = disk();
        assert_eq!(holds(&file, SIZE).unwrap(), Holds::Nothing);
        file.write_all_at(b"x", 5 << 20).unwrap();
        assert_eq!(holds(&file, SIZE).unwrap(), Holds::Other);
    }

    #[test]
    fn a_disk_whose_making_was_cut_short_is_made_anew() {
        let file = disk();
        file.write_all_at(b"inodes", 1 << 20).unwrap();
        file.write_all_at(MARK, SIZE - BLOCK).unwrap();
        assert_eq!(holds(&file, SIZE).unwrap(), Holds::Nothing);
    }

    #[test]
    fn ext4_is_known_by_its_magic() {
        let file = disk();
        file.write_all_at(&0xEF53u16.to_le_bytes(), 1024 + 56).unwrap();
        assert_eq!(holds(&file, SIZE).unwrap(), Holds::Ext4);
    }
}

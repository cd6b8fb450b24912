//! A disk image in Apple's compressed form (UDZO), which `hdiutil` and the Finder open as they open their own.
//!
//! ```text
//! chunks of the disk, each deflated, or nothing at all where there are only zeros
//! a property list: the table of the chunks (`mish`) of the one part there is, the whole disk
//! a trailer of 512 bytes (`koly`): where the list is, and sums
//! ```
//! Apple has published none of it. Followed are the structures of libdmg-hfsplus (`includes/dmg/dmg.h`, `dmg/dmglib.c`), by which
//! others have made theirs on Linux for years; Debian's dmg2img and 7zip, which only read, check it in the tests. All
//! numbers are big-endian.

use std::io::Write;

use anyhow::{Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use flate2::{Compression, Crc, write::ZlibEncoder};

const SECTOR: usize = 512;
/// Sectors of a chunk.
const CHUNK: usize = 512;
/// Sectors that whoever unpacks a chunk makes room for: some more than it has, as `hdiutil` says as well.
const ROOM: u32 = CHUNK as u32 + 8;
/// What a table that is the whole disk's says instead of a part's number.
const WHOLE: u32 = 0xffff_fffe;
const NAME: &str = "whole disk (unknown partition : 0)";

/// Kinds of chunks.
const ZEROS: u32 = 0;
const ZLIB: u32 = 0x8000_0005;
const LAST: u32 = 0xffff_ffff;

/// Packs a disk's bytes.
pub fn compressed(disk: &[u8]) -> Result<Vec<u8>> {
    ensure!(disk.len().is_multiple_of(SECTOR), "a disk has whole sectors, this one has {} bytes", disk.len());
    let (mut out, mut table, mut runs) = (Vec::new(), Vec::new(), 0u32);
    let mut run = |kind: u32, first: usize, sectors: usize, at: usize, len: usize| {
        table.extend(kind.to_be_bytes());
        table.extend(0u32.to_be_bytes());
        table.extend([first, sectors, at, len].iter().flat_map(|n| (*n as u64).to_be_bytes()));
        runs += 1;
    };
    for (n, chunk) in disk.chunks(CHUNK * SECTOR).enumerate() {
        let (first, sectors, at) = (n * CHUNK, chunk.len() / SECTOR, out.len());
        if chunk.iter().all(|byte| *byte == 0) {
            run(ZEROS, first, sectors, at, 0);
            continue;
        }
        let mut packer = ZlibEncoder::new(&mut out, Compression::best());
        packer.write_all(chunk)?;
        packer.finish()?;
        run(ZLIB, first, sectors, at, out.len() - at);
    }
    let sectors = disk.len() / SECTOR;
    run(LAST, sectors, 0, out.len(), 0);

    let (of_disk, of_data) = (crc(disk), crc(&out));
    let mut mish = b"mish".to_vec();
    mish.extend(1u32.to_be_bytes());
    mish.extend([0, sectors as u64, 0].iter().flat_map(|n| n.to_be_bytes()));
    mish.extend([ROOM, WHOLE, 0, 0, 0, 0, 0, 0].iter().flat_map(|n| n.to_be_bytes()));
    mish.extend(sum(of_disk));
    mish.extend(runs.to_be_bytes());
    mish.extend(table);
    let list = list(&BASE64_STANDARD.encode(&mish));
    let (data_len, list_at) = (out.len() as u64, out.len() as u64);
    out.extend(list.as_bytes());

    out.extend(b"koly");
    out.extend([4, SECTOR as u32, 1].iter().flat_map(|n| n.to_be_bytes())); // version, own length, in one piece
    out.extend([0, 0, data_len, 0, 0].iter().flat_map(|n| n.to_be_bytes())); // data's place; no resource fork
    out.extend([1u32, 1].iter().flat_map(|n| n.to_be_bytes())); // the first segment of one
    out.extend(&sum(of_disk)[8..12]); // its identity, which is to be the same twice
    out.extend([0; 12]);
    out.extend(sum(of_data));
    out.extend([list_at, list.len() as u64].iter().flat_map(|n| n.to_be_bytes()));
    out.extend([0; 120]);
    out.extend(sum(crc(&of_disk.to_be_bytes()))); // of the sums of all tables
    out.extend(1u32.to_be_bytes()); // made of a device
    out.extend((sectors as u64).to_be_bytes());
    out.extend([0; 12]);
    Ok(out)
}

/// A sum as it is written: its kind (CRC32), its bits, room for the longest there is.
fn sum(crc: u32) -> Vec<u8> {
    let mut sum: Vec<u8> = [2, 32, crc].iter().flat_map(|n| n.to_be_bytes()).collect();
    sum.resize(2 * 4 + 32 * 4, 0);
    sum
}

fn crc(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

fn list(mish: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <!DOCTYPE plist PUBLIC \"-//Apple Computer//DTD PLIST 1.0//EN\" \"http://www.apple.com/DTDs/PropertyList-1.0.dtd\">\n\
         <plist version=\"1.0\">\n<dict>\n\t<key>resource-fork</key>\n\t<dict>\n\t\t<key>blkx</key>\n\t\t<array>\n\t\t\t<dict>\n\
         \t\t\t\t<key>Attributes</key>\n\t\t\t\t<string>0x0050</string>\n\
         \t\t\t\t<key>CFName</key>\n\t\t\t\t<string>{NAME}</string>\n\
         \t\t\t\t<key>Data</key>\n\t\t\t\t<data>\n{mish}\n\t\t\t\t</data>\n\
         \t\t\t\t<key>ID</key>\n\t\t\t\t<string>0</string>\n\
         \t\t\t\t<key>Name</key>\n\t\t\t\t<string>{NAME}</string>\n\
         \t\t\t</dict>\n\t\t</array>\n\t</dict>\n</dict>\n</plist>\n"
    )
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::debian::Debian;

    /// By programs of others, of which one only unpacks and the other checks the sums as well.
    #[test]
    fn a_disk_comes_out_as_it_went_in() {
        let dir = tempfile::tempdir().unwrap();
        // Text, zeros of several chunks, what doesn't get smaller, and an end within a chunk.
        let mut disk = b"a file on a disk ".repeat(20_000);
        disk.resize(4 * CHUNK * SECTOR, 0);
        let mut state = 1u64;
        disk.extend(
            std::iter::repeat_with(|| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (state >> 56) as u8
            })
            .take(CHUNK * SECTOR + 3 * SECTOR),
        );
        let packed = compressed(&disk).unwrap();
        assert!(packed.len() < disk.len() / 2, "{} of {}", packed.len(), disk.len());
        assert_eq!(&packed[packed.len() - SECTOR..][..4], b"koly");
        assert_eq!(compressed(&disk).unwrap(), packed, "other bytes of the same");
        assert!(compressed(&disk[1..]).is_err());
        let file = dir.path().join("a.dmg");
        fs::write(&file, &packed).unwrap();

        let debian = Debian::open("bookworm").unwrap();
        let out = dir.path().join("by-dmg2img");
        let said = debian
            .tree("dmg2img", &["dmg2img"])
            .unwrap()
            .command("/usr/bin/dmg2img")
            .arg("-i")
            .arg(&file)
            .arg("-o")
            .arg(&out)
            .output()
            .unwrap();
        assert!(said.status.success(), "{said:?}");
        assert!(fs::read(&out).unwrap() == disk, "dmg2img read something else");

        let seven = debian.tree("7zip", &["7zip"]).unwrap();
        let tested = |file: &std::path::Path| {
            seven.command("/usr/bin/7zz").arg("t").arg("-tdmg").arg(file).output().unwrap()
        };
        let said = tested(&file);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stdout));
        let mut broken = packed.clone();
        broken[100] ^= 1;
        fs::write(&file, broken).unwrap();
        assert!(!tested(&file).status.success());
    }
}

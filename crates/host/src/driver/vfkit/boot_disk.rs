//! A disk that firmware boots the guest from: kernel, initrd, boot arguments, and the loader that brings these together
//! (`boot.efi` of the guest's image: systemd-boot). Made anew for every start, since the arguments are each start's own.
//!
//! ```text
//! sector 0          "protective" partition table, for who knows no other
//!        1, 2..33   partition table (GPT): one partition, the firmware's
//!        2048..     FAT16: one sector of its head, two tables, the root folder, clusters
//!        the end    the partition table once more
//!
//! EFI/BOOT/BOOTAA64.EFI     where firmware looks (BOOTX64.EFI)
//! LOADER/ENTRIES/coracle.conf   what the loader boots: where kernel and initrd are, and the arguments
//! KERNEL, INITRD
//! ```

use std::{
    fs::File,
    io::{self, Seek, SeekFrom, Write},
    path::Path,
};

const SECTOR: usize = 512;
/// Sectors of a cluster.
const CLUSTER_SECTORS: usize = 8;
const CLUSTER: usize = SECTOR * CLUSTER_SECTORS;
/// The partition's first sector.
const FIRST: u64 = 2048;
/// Entries of the root folder.
const ROOT_ENTRIES: usize = 512;
const ENTRY: usize = 32;
/// How many clusters make a FAT16: fewer are a FAT12, more a FAT32.
const CLUSTERS: std::ops::RangeInclusive<usize> = 4096..=65_000;
/// Sectors of a partition table's entries, and of a whole copy of it.
const TABLE: u64 = 32;
/// The firmware's kind of partition, as it lies on the disk (C12A7328-F81F-11D2-BA4B-00A0C93EC93B).
const ESP: [u8; 16] =
    [0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e, 0xc9, 0x3b];
/// Disk and partition by name; no two such disks are ever seen together.
const DISK_ID: [u8; 16] = *b"coracle boot dsk";
const PARTITION_ID: [u8; 16] = *b"coracle boot prt";

const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0F;

/// What is put on it.
pub struct Content<'a> {
    /// The loader's file name: the firmware's for its processor.
    pub loader_name: &'a str,
    /// The loader.
    pub loader: Vec<u8>,
    /// The kernel, with its part for firmware.
    pub kernel: Vec<u8>,
    /// Its first file system.
    pub initrd: Vec<u8>,
    /// The boot arguments: one line.
    pub arguments: &'a str,
}

/// Writes the disk; what was at `path` is replaced.
pub fn write(path: &Path, content: Content<'_>) -> io::Result<()> {
    let conf =
        format!("title Coracle\nlinux /kernel\ninitrd /initrd\noptions {}\n", content.arguments.trim());
    let mut volume = Volume { table: vec![0xFFF8, 0xFFFF], clusters: Vec::new() };
    // Short names are in capitals, and found whatever the case.
    let root = vec![
        Node::Folder(
            "EFI",
            vec![Node::Folder("BOOT", vec![Node::File(content.loader_name, content.loader)])],
        ),
        Node::Folder(
            "LOADER",
            vec![Node::Folder("ENTRIES", vec![Node::Long("coracle.conf", conf.into_bytes())])],
        ),
        Node::File("KERNEL", content.kernel),
        Node::File("INITRD", content.initrd),
    ];
    let root = volume.entries(0, root);
    if volume.table.len() > *CLUSTERS.end() {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "kernel and initrd are too large for it"));
    }
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    let sectors = volume.write(&mut file, root)?;
    partition(&mut file, sectors)?;
    drop(file);
    std::fs::rename(&part, path)
}

/// A file or a folder.
enum Node<'a> {
    Folder(&'a str, Vec<Self>),
    File(&'a str, Vec<u8>),
    /// A file whose name has more than eight letters, or more than three after the dot; at most 13 in all.
    Long(&'a str, Vec<u8>),
}

/// A file system under way.
struct Volume {
    /// The table of clusters: each names the next one of its file. The first two are no clusters.
    table: Vec<u16>,
    /// What is in clusters: the first one's number, and bytes for it and those after it.
    clusters: Vec<(u16, Vec<u8>)>,
}

impl Volume {
    /// Takes clusters for so many bytes; gives the first. Nothing takes none.
    fn take(&mut self, len: usize) -> u16 {
        let count = len.div_ceil(CLUSTER);
        if count == 0 {
            return 0;
        }
        let first = self.table.len() as u16;
        // What doesn't fit is told from the table's length afterwards.
        self.table.extend((1..count).map(|n| first.wrapping_add(n as u16)));
        self.table.push(0xFFFF);
        first
    }

    /// What a folder consists of; its content gets its clusters. `own`: the folder's own first cluster.
    fn entries(&mut self, own: u16, nodes: Vec<Node<'_>>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for node in nodes {
            match node {
                Node::Folder(name, nodes) => {
                    let first = self.take(CLUSTER);
                    let mut content = Vec::new();
                    content.extend(entry(*b".          ", DIRECTORY, first, 0));
                    content.extend(entry(*b"..         ", DIRECTORY, own, 0));
                    content.extend(self.entries(first, nodes));
                    assert!(content.len() <= CLUSTER, "a folder of the boot disk has a handful of files");
                    self.clusters.push((first, content));
                    bytes.extend(entry(short(name), DIRECTORY, first, 0));
                }
                Node::File(name, content) => bytes.extend(self.file(short(name), content)),
                Node::Long(name, content) => {
                    let short = *b"CORACL~1CON";
                    bytes.extend(long(name, &short));
                    bytes.extend(self.file(short, content));
                }
            }
        }
        bytes
    }

    fn file(&mut self, name: [u8; 11], content: Vec<u8>) -> [u8; ENTRY] {
        let (len, first) = (content.len(), self.take(content.len()));
        self.clusters.push((first, content));
        entry(name, 0, first, len as u32)
    }

    /// Writes the file system at its place; gives its sectors.
    fn write(mut self, file: &mut File, root: Vec<u8>) -> io::Result<u64> {
        self.table.resize(self.table.len().max(*CLUSTERS.start() + 2), 0);
        let table_sectors = (self.table.len() * 2).div_ceil(SECTOR);
        let root_at = 1 + 2 * table_sectors;
        let data_at = root_at + ROOT_ENTRIES * ENTRY / SECTOR;
        let sectors = data_at + (self.table.len() - 2) * CLUSTER_SECTORS;
        let mut at = |sector: usize, bytes: &[u8]| -> io::Result<()> {
            file.seek(SeekFrom::Start((FIRST + sector as u64) * SECTOR as u64))?;
            file.write_all(bytes)
        };
        at(0, &head(table_sectors as u16, sectors as u32))?;
        let table: Vec<u8> = self.table.iter().flat_map(|next| next.to_le_bytes()).collect();
        at(1, &table)?;
        at(1 + table_sectors, &table)?;
        at(root_at, &root)?;
        for (first, bytes) in self.clusters.iter().filter(|(first, _)| *first > 0) {
            at(data_at + (usize::from(*first) - 2) * CLUSTER_SECTORS, bytes)?;
        }
        Ok(sectors as u64)
    }
}

/// The file system's first sector.
fn head(table_sectors: u16, sectors: u32) -> [u8; SECTOR] {
    let mut head = [0; SECTOR];
    head[..11].copy_from_slice(b"\xEB\x3C\x90CORACLE ");
    head[11..13].copy_from_slice(&(SECTOR as u16).to_le_bytes());
    head[13] = CLUSTER_SECTORS as u8;
    head[14] = 1; // this sector before the tables
    head[16] = 2; // tables
    head[17..19].copy_from_slice(&(ROOT_ENTRIES as u16).to_le_bytes());
    head[21] = 0xF8;
    head[22..24].copy_from_slice(&table_sectors.to_le_bytes());
    head[24] = 32; // geometry, which nobody asks for any more
    head[26] = 8;
    head[28..32].copy_from_slice(&(FIRST as u32).to_le_bytes());
    head[32..36].copy_from_slice(&sectors.to_le_bytes());
    head[36] = 0x80;
    head[38] = 0x29;
    head[39..43].copy_from_slice(b"cora");
    head[43..62].copy_from_slice(b"CORACLE    FAT16   ");
    head[510..].copy_from_slice(&[0x55, 0xAA]);
    head
}

fn entry(name: [u8; 11], kind: u8, first: u16, len: u32) -> [u8; ENTRY] {
    let mut entry = [0; ENTRY];
    entry[..11].copy_from_slice(&name);
    entry[11] = kind;
    entry[16] = 0x21; // 1980-01-01, as all of it
    entry[24] = 0x21;
    entry[26..28].copy_from_slice(&first.to_le_bytes());
    entry[28..].copy_from_slice(&len.to_le_bytes());
    entry
}

/// `NAME.EXT` in its eleven places.
fn short(name: &str) -> [u8; 11] {
    let (stem, extension) = name.split_once('.').unwrap_or((name, ""));
    assert!(stem.len() <= 8 && extension.len() <= 3, "{name} is a short name");
    let mut places = [b' '; 11];
    places[..stem.len()].copy_from_slice(stem.as_bytes());
    places[8..8 + extension.len()].copy_from_slice(extension.as_bytes());
    places
}

/// The entry that goes before a short name's and has the long one.
fn long(name: &str, short: &[u8; 11]) -> [u8; ENTRY] {
    let mut units: Vec<u16> = name.encode_utf16().chain([0]).collect();
    assert!(units.len() <= 13, "{name} fits one entry");
    units.resize(13, 0xFFFF);
    let mut entry = [0; ENTRY];
    entry[0] = 0x41; // the first and last of them
    entry[11] = LONG_NAME;
    entry[13] = short.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte));
    let places = (1..11).step_by(2).chain((14..26).step_by(2)).chain([28, 30]);
    for (place, unit) in places.zip(units) {
        entry[place..place + 2].copy_from_slice(&unit.to_le_bytes());
    }
    entry
}

/// Writes the partition tables around a partition of so many sectors.
fn partition(file: &mut File, sectors: u64) -> io::Result<()> {
    let (last, end) = (FIRST + sectors - 1, FIRST + sectors + TABLE);
    let mut entries = vec![0; TABLE as usize * SECTOR];
    entries[..16].copy_from_slice(&ESP);
    entries[16..32].copy_from_slice(&PARTITION_ID);
    entries[32..40].copy_from_slice(&FIRST.to_le_bytes());
    entries[40..48].copy_from_slice(&last.to_le_bytes());
    for (place, unit) in (56..).step_by(2).zip("boot".encode_utf16()) {
        entries[place..place + 2].copy_from_slice(&unit.to_le_bytes());
    }
    let header = |own: u64, other: u64, table: u64| {
        let mut header = [0; SECTOR];
        header[..12].copy_from_slice(b"EFI PART\x00\x00\x01\x00");
        header[12..16].copy_from_slice(&92_u32.to_le_bytes());
        for (place, number) in [(24, own), (32, other), (40, 2 + TABLE), (48, end - TABLE - 1)] {
            header[place..place + 8].copy_from_slice(&number.to_le_bytes());
        }
        header[56..72].copy_from_slice(&DISK_ID);
        header[72..80].copy_from_slice(&table.to_le_bytes());
        header[80..84].copy_from_slice(&128_u32.to_le_bytes());
        header[84..88].copy_from_slice(&128_u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(&entries).to_le_bytes());
        let sum = crc32(&header[..92]);
        header[16..20].copy_from_slice(&sum.to_le_bytes());
        header
    };
    let mut protective = [0; SECTOR];
    protective[446..462].copy_from_slice(&[0, 0, 2, 0, 0xEE, 0xFF, 0xFF, 0xFF, 1, 0, 0, 0, 0, 0, 0, 0]);
    protective[458..462].copy_from_slice(&u32::try_from(end).unwrap_or(u32::MAX).to_le_bytes());
    protective[510..].copy_from_slice(&[0x55, 0xAA]);
    let mut at = |sector: u64, bytes: &[u8]| -> io::Result<()> {
        file.seek(SeekFrom::Start(sector * SECTOR as u64))?;
        file.write_all(bytes)
    };
    at(0, &protective)?;
    at(1, &header(1, end, 2))?;
    at(2, &entries)?;
    at(end - TABLE, &entries)?;
    at(end, &header(end, 1, end - TABLE))
}

/// The sum of partition tables (CRC-32 of IEEE 802.3).
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| (sum >> 1) ^ (0xEDB8_8320 & (sum & 1).wrapping_neg()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(kernel: usize) -> Content<'static> {
        Content {
            loader_name: "BOOTAA64.EFI",
            loader: b"MZ loader".to_vec(),
            kernel: (0..kernel).map(|n| n as u8).collect(),
            initrd: b"initrd".to_vec(),
            arguments: " quiet coracle.root=/dev/vdb ",
        }
    }

    /// Reads as others do: by what the sectors say.
    struct Disk(Vec<u8>);

    impl Disk {
        fn number(&self, at: usize, len: usize) -> usize {
            self.0[at..at + len].iter().rev().fold(0, |number, byte| number << 8 | usize::from(*byte))
        }

        fn start(&self) -> usize {
            self.number(1024 + 32, 8) * SECTOR
        }

        fn root(&self) -> usize {
            self.start() + (1 + 2 * self.number(self.start() + 22, 2)) * SECTOR
        }

        fn cluster(&self, number: usize) -> usize {
            self.root() + ROOT_ENTRIES * ENTRY + (number - 2) * CLUSTER
        }

        /// First cluster and length of a folder's entry.
        fn find(&self, folder: usize, name: &[u8; 11]) -> (usize, usize) {
            let at = (0..64).map(|n| folder + n * ENTRY).find(|at| &self.0[*at..at + 11] == name);
            let at = at.unwrap_or_else(|| panic!("{} is not there", String::from_utf8_lossy(name)));
            (self.number(at + 26, 2), self.number(at + 28, 4))
        }

        fn read(&self, (mut cluster, len): (usize, usize)) -> Vec<u8> {
            let mut bytes = Vec::new();
            while cluster < 0xFFF8 {
                let at = self.cluster(cluster);
                bytes.extend_from_slice(&self.0[at..(at + CLUSTER).min(self.0.len())]);
                cluster = self.number(self.start() + SECTOR + cluster * 2, 2);
            }
            bytes.truncate(len);
            bytes
        }
    }

    #[test]
    fn what_is_put_on_it_is_found_where_firmware_looks() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot.img");
        write(&path, content(3 * CLUSTER + 5)).unwrap();
        let disk = Disk(std::fs::read(&path).unwrap());
        assert_eq!(&disk.0[512..520], b"EFI PART");
        // Both tables name each other, and the disk ends with the second.
        let other = disk.number(512 + 32, 8) * SECTOR;
        assert_eq!((other + SECTOR, disk.number(other + 32, 8)), (disk.0.len(), 1));

        let efi = disk.cluster(disk.find(disk.root(), b"EFI        ").0);
        let boot = disk.cluster(disk.find(efi, b"BOOT       ").0);
        assert_eq!(disk.read(disk.find(boot, b"BOOTAA64EFI")), b"MZ loader");
        assert_eq!(disk.find(boot, b"..         ").0, disk.find(disk.root(), b"EFI        ").0);
        let kernel = disk.read(disk.find(disk.root(), b"KERNEL     "));
        assert_eq!(kernel, content(3 * CLUSTER + 5).kernel);
        assert_eq!(disk.read(disk.find(disk.root(), b"INITRD     ")), b"initrd");

        let entries = disk.find(disk.root(), b"LOADER     ").0;
        let entries = disk.cluster(disk.find(disk.cluster(entries), b"ENTRIES    ").0);
        let conf = String::from_utf8(disk.read(disk.find(entries, b"CORACL~1CON"))).unwrap();
        assert!(conf.ends_with("\noptions quiet coracle.root=/dev/vdb\n"), "{conf}");
        let name: Vec<u8> = [1, 3, 5, 7, 9].map(|n| disk.0[entries + 2 * ENTRY + n]).to_vec();
        assert_eq!(name, b"corac", "the long name goes before the short one");
    }

    #[test]
    fn the_sum_is_everybodys() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn what_is_too_large_is_refused_and_nothing_is_left() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("boot.img");
        let large = Content { kernel: vec![0; CLUSTERS.end() * CLUSTER], ..content(0) };
        let error = write(&path, large).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

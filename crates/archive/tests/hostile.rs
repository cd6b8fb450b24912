//! Archives made to do harm: nothing outside the folder may ever change. Needs root (owners, devices, `trusted.*`).

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use archive::{Error, ExtractOptions, Limits, Summary, extract};
use proptest::prelude::*;
use tar::EntryType;

/// A folder to extract into, and beside it one that must stay as it is.
struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        fs::set_permissions(dir.path().join("outside"), fs::Permissions::from_mode(0o711)).unwrap();
        Place { dir }
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn extract(&self, tar: &[u8], options: &ExtractOptions) -> Result<Summary, Error> {
        extract(tar, File::open(self.root()).unwrap().as_fd(), options)
    }

    fn layer(&self, tar: &[u8]) -> Result<Summary, Error> {
        self.extract(tar, &ExtractOptions::layer())
    }

    fn assert_untouched(&self) {
        let outside = self.outside();
        assert_eq!(fs::metadata(&outside).unwrap().mode() & 0o7777, 0o711, "mode of the folder outside");
        let names: Vec<_> = fs::read_dir(&outside).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(names, ["secret"], "names outside");
        let secret = outside.join("secret");
        assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
        assert_eq!(fs::metadata(&secret).unwrap().nlink(), 1, "a hard link leads out");
        let top: Vec<_> = fs::read_dir(self.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(top.len(), 2, "something was made beside the folder: {top:?}");
    }
}

/// Builds archives that no honest tool would write.
#[derive(Default)]
struct Tar(Vec<u8>);

impl Tar {
    fn raw(mut self, path: &str, kind: EntryType, link: &str, size: u64, data: &[u8]) -> Tar {
        let mut header = tar::Header::new_ustar();
        let bytes = header.as_mut_bytes();
        bytes[..path.len()].copy_from_slice(path.as_bytes());
        bytes[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o777 } else { 0o4755 });
        header.set_mtime(1_000_000);
        header.set_size(size);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, path: &str, data: &str) -> Tar {
        self.raw(path, EntryType::Regular, "", data.len() as u64, data.as_bytes())
    }

    fn folder(self, path: &str) -> Tar {
        self.raw(path, EntryType::Directory, "", 0, b"")
    }

    fn symlink(self, path: &str, to: &str) -> Tar {
        self.raw(path, EntryType::Symlink, to, 0, b"")
    }

    fn hardlink(self, path: &str, to: &str) -> Tar {
        self.raw(path, EntryType::Link, to, 0, b"")
    }

    fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        let mut body = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let digits = (1..6).find(|d| (rest + d).to_string().len() == *d).unwrap();
            body.extend_from_slice(format!("{} {key}=", rest + digits).as_bytes());
            body.extend_from_slice(value);
            body.push(b'\n');
        }
        let size = body.len() as u64;
        self.raw("PaxHeaders", EntryType::XHeader, "", size, &body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.extend_from_slice(&[0; 1024]);
        self.0
    }
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 4096];
    let n = rustix::fs::lgetxattr(path, name, &mut value).ok()?;
    value.truncate(n);
    Some(value)
}

#[test]
fn dots_do_not_lead_out() {
    for path in ["../outside/x", "a/../../outside/x", "./../outside/x", "..", "../../../../etc/x"] {
        let place = Place::new();
        let done = place.layer(&Tar::default().file(path, "evil").end());
        assert!(matches!(done, Err(Error::Outside { .. })), "{path}: {done:?}");
        place.assert_untouched();
    }
}

#[test]
fn absolute_paths_count_from_the_root() {
    let place = Place::new();
    let outside = place.outside();
    let path = outside.join("x");
    place.layer(&Tar::default().file(path.to_str().unwrap(), "inside").end()).unwrap();
    place.assert_untouched();
    let inside = place.root().join(path.strip_prefix("/").unwrap());
    assert_eq!(fs::read_to_string(inside).unwrap(), "inside");
}

#[test]
fn links_on_the_way_count_from_the_root() {
    let place = Place::new();
    let outside = place.outside();
    for (name, target) in
        [("up", "../outside"), ("abs", outside.to_str().unwrap()), ("far", "../../../../../..")]
    {
        let tar = Tar::default().symlink(name, target).file(&format!("{name}/x"), "evil").end();
        let _ = place.layer(&tar);
        place.assert_untouched();
    }
    // Through links that stay inside, files arrive where the links lead.
    let tar = Tar::default().folder("real").symlink("l", "/real").file("l/x", "there").end();
    place.layer(&tar).unwrap();
    assert_eq!(fs::read_to_string(place.root().join("real/x")).unwrap(), "there");
}

/// CVE-2026-33056: a folder entry over a symbolic link must not chmod what the link points at.
#[test]
fn a_folder_replaces_a_link_instead_of_following_it() {
    for options in [ExtractOptions::layer(), ExtractOptions::plain()] {
        let place = Place::new();
        let tar = Tar::default().symlink("d", place.outside().to_str().unwrap()).folder("d").end();
        place.extract(&tar, &options).unwrap();
        place.assert_untouched();
        assert!(fs::symlink_metadata(place.root().join("d")).unwrap().is_dir());
    }
}

#[test]
fn a_file_replaces_a_link_instead_of_writing_through_it() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    symlink(&secret, place.root().join("f")).unwrap();
    place.layer(&Tar::default().file("f", "evil").end()).unwrap();
    place.assert_untouched();
    assert_eq!(fs::read_to_string(place.root().join("f")).unwrap(), "evil");
}

#[test]
fn hard_links_stay_inside() {
    let place = Place::new();
    let secret = place.outside().join("secret");
    for target in ["../outside/secret", secret.to_str().unwrap(), "l/secret", ".."] {
        let tar = Tar::default().symlink("l", "../outside").hardlink("h", target).file("h", "evil").end();
        assert!(place.layer(&tar).is_err(), "{target}");
        place.assert_untouched();
    }
    // A hard link to a symbolic link is another name of that link; writing to it replaces the name.
    let tar =
        Tar::default().symlink("l", secret.to_str().unwrap()).hardlink("h", "l").file("h", "evil").end();
    place.layer(&tar).unwrap();
    place.assert_untouched();
}

/// CVE-2025-62518: PAX and ustar disagree on the size; the PAX one counts, so the "hidden" header is data.
#[test]
fn the_pax_size_counts() {
    let hidden = Tar::default().file("hidden", "evil").0;
    let tar = Tar::default()
        .pax(&[("size", hidden.len().to_string().as_bytes())])
        .raw("f", EntryType::Regular, "", 0, &hidden)
        .file("after", "x")
        .end();
    let place = Place::new();
    place.layer(&tar).unwrap();
    assert!(!place.root().join("hidden").exists());
    assert_eq!(fs::read(place.root().join("f")).unwrap(), hidden);
    assert!(place.root().join("after").exists());
    // Also after a record whose binary value holds a newline and what looks like another size.
    let tar = Tar::default()
        .pax(&[("SCHILY.xattr.user.x", b"a\n10 size=0\n"), ("size", hidden.len().to_string().as_bytes())])
        .raw("g", EntryType::Regular, "", 0, &hidden)
        .end();
    place.layer(&tar).unwrap();
    assert_eq!(fs::read(place.root().join("g")).unwrap(), hidden);
    assert_eq!(xattr(&place.root().join("g"), "user.x").unwrap(), b"a\n10 size=0\n");
}

#[test]
fn limits_hold() {
    let place = Place::new();
    let with = |limits: Limits| ExtractOptions { limits, ..ExtractOptions::layer() };
    let many = (0..20).fold(Tar::default(), |t, i| t.file(&format!("f{i}"), "")).end();
    let few = with(Limits { entries: 10, ..Limits::default() });
    assert!(matches!(place.extract(&many, &few), Err(Error::Limit { what: "entries", .. })));
    let bomb = Tar::default().raw("bomb", EntryType::Regular, "", 1 << 30, b"").end();
    let small = with(Limits { bytes: 1 << 20, ..Limits::default() });
    assert!(matches!(place.extract(&bomb, &small), Err(Error::Limit { what: "bytes", .. })));
    let deep = Tar::default().pax(&[("path", "d/".repeat(1000).as_bytes())]).folder("d").end();
    assert!(matches!(place.layer(&deep), Err(Error::Limit { .. })));
    let huge = Tar::default().raw("x", EntryType::XHeader, "", 1 << 40, b"").end();
    assert!(matches!(place.layer(&huge), Err(Error::Limit { .. })));
}

#[test]
fn overlayfs_attributes_are_not_an_images_to_set() {
    let place = Place::new();
    let tar = Tar::default()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.redirect", b"/../../etc"),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.fine", b"1"),
        ])
        .folder("d")
        .end();
    place.layer(&tar).unwrap();
    let d = place.root().join("d");
    assert_eq!(xattr(&d, "trusted.overlay.redirect"), None);
    assert_eq!(xattr(&d, "trusted.overlay.opaque"), None);
    assert_eq!(xattr(&d, "user.fine").unwrap(), b"1");
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let place = Place::new();
    let tar = Tar::default()
        .file("d/.wh.gone", "")
        .file("o/.wh..wh..opq", "")
        .file("o/new", "x")
        // A folder that replaces a removed one hides it.
        .file(".wh.r", "")
        .file("r/inside", "x")
        .file("kept", "x")
        .file(".wh.kept", "")
        .file(".wh..wh.plnk", "")
        .end();
    place.layer(&tar).unwrap();
    let root = place.root();
    let gone = fs::symlink_metadata(root.join("d/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    for opaque in ["o", "r"] {
        assert_eq!(xattr(&root.join(opaque), "trusted.overlay.opaque").unwrap(), b"y", "{opaque}");
    }
    assert_eq!(fs::read_to_string(root.join("kept")).unwrap(), "x");
    assert_eq!(fs::read_dir(&root).unwrap().count(), 4);
    for bad in [".wh.", ".wh...", ".wh.."] {
        assert!(place.layer(&Tar::default().file(bad, "").end()).is_err(), "{bad}");
    }
    // In any other archive they are files.
    let plain = Place::new();
    plain.extract(&tar, &ExtractOptions::plain()).unwrap();
    assert!(plain.root().join("d/.wh.gone").is_file());
}

#[test]
fn a_later_entry_wins_and_set_id_bits_survive() {
    let place = Place::new();
    let tar = Tar::default()
        .file("f", "one")
        .folder("d/e")
        .file("d/e/f", "x")
        .file("d", "now a file")
        .file("f", "two");
    let summary = place.layer(&tar.end()).unwrap();
    assert_eq!(summary.entries, 5);
    let root = place.root();
    assert_eq!(fs::read_to_string(root.join("f")).unwrap(), "two");
    assert_eq!(fs::read_to_string(root.join("d")).unwrap(), "now a file");
    let meta = fs::metadata(root.join("f")).unwrap();
    assert_eq!(meta.mode() & 0o7777, 0o4755);
    assert_eq!(meta.mtime(), 1_000_000);
    let used: u64 = fs::read_dir(&root).unwrap().map(|e| e.unwrap().metadata().unwrap().blocks() * 512).sum();
    assert_eq!(summary.disk_bytes, used);
}

#[test]
fn gnu_tars_own_archives_arrive_whole() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    fs::create_dir_all(source.join("a".repeat(120)).join("b".repeat(120))).unwrap();
    fs::write(source.join("a".repeat(120)).join("b".repeat(120)).join("long"), "long").unwrap();
    symlink("x".repeat(150), source.join("link")).unwrap();
    let sparse = File::create(source.join("sparse")).unwrap();
    sparse.set_len(100 << 20).unwrap();
    for i in 0..40u64 {
        std::os::unix::fs::FileExt::write_all_at(&sparse, b"data", i * (2 << 20) + 4096).unwrap();
    }
    rustix::fs::fsetxattr(&sparse, "user.bin", b"\n\0\n", rustix::fs::XattrFlags::empty()).unwrap();
    for format in [
        &["--format=gnu"][..],
        &["--format=posix", "--xattrs", "--sparse-version=0.0"],
        &["--format=posix", "--xattrs", "--sparse-version=0.1"],
        &["--format=posix", "--xattrs", "--sparse-version=1.0"],
    ] {
        let out = std::process::Command::new("tar")
            .args(["-S", "-C"])
            .arg(&source)
            .args(format)
            .args(["-c", "."])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let target = tempfile::tempdir().unwrap();
        let fd = File::open(target.path()).unwrap();
        let summary = extract(out.stdout.as_slice(), fd.as_fd(), &ExtractOptions::plain())
            .unwrap_or_else(|e| panic!("{format:?}: {e}"));
        let got = fs::metadata(target.path().join("sparse")).unwrap();
        assert_eq!(got.len(), 100 << 20, "{format:?}");
        assert!(got.blocks() * 512 < 2 << 20, "{format:?}: holes were filled");
        assert!(summary.bytes < 2 << 20);
        assert_eq!(
            fs::read(source.join("sparse")).unwrap(),
            fs::read(target.path().join("sparse")).unwrap(),
            "{format:?}"
        );
        assert_eq!(fs::read_link(target.path().join("link")).unwrap(), Path::new(&"x".repeat(150)));
        let long = target.path().join("a".repeat(120)).join("b".repeat(120)).join("long");
        assert_eq!(fs::read_to_string(long).unwrap(), "long");
        if format.contains(&"--xattrs") {
            assert_eq!(xattr(&target.path().join("sparse"), "user.bin").unwrap(), b"\n\0\n");
        }
    }
    fs::remove_dir_all(source).unwrap();
}

#[test]
fn what_is_created_extracts_the_same() {
    let place = Place::new();
    let source = place.dir.path().join("source");
    let names = [format!("{}/{}", "d".repeat(200), "ä".repeat(50)), "s".into(), "h2".into(), "p".into()];
    fs::create_dir_all(source.join(&names[0])).unwrap();
    fs::write(source.join("s"), "data").unwrap();
    fs::set_permissions(source.join("s"), fs::Permissions::from_mode(0o6751)).unwrap();
    std::os::unix::fs::chown(source.join("s"), Some(3_000_000), Some(7)).unwrap();
    fs::set_permissions(source.join("s"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::hard_link(source.join("s"), source.join("h2")).unwrap();
    symlink("/".repeat(300), source.join("l")).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        source.join("p"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::from_raw_mode(0o640),
        0,
    )
    .unwrap();
    rustix::fs::setxattr(source.join("s"), "user.x", b"\n=\n", rustix::fs::XattrFlags::empty()).unwrap();
    let mut tar = Vec::new();
    let options = archive::CreateOptions { contents_only: true, ..Default::default() };
    archive::create(File::open(&source).unwrap().as_fd(), b"", &options, &mut tar).unwrap();
    place.extract(&tar, &ExtractOptions::plain()).unwrap();
    for name in names.iter().map(String::as_str).chain(["l"]) {
        let (a, b) = (
            fs::symlink_metadata(source.join(name)).unwrap(),
            fs::symlink_metadata(place.root().join(name)).unwrap(),
        );
        let facts =
            |m: &fs::Metadata| (m.mode(), m.uid(), m.gid(), m.mtime(), m.mtime_nsec(), m.nlink(), m.rdev());
        assert_eq!(facts(&a), facts(&b), "{name}");
    }
    assert_eq!(xattr(&place.root().join("s"), "user.x").unwrap(), b"\n=\n");
    // GNU tar reads it as well.
    let mut list = std::process::Command::new("tar")
        .arg("-t")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    std::io::Write::write_all(&mut list.stdin.take().unwrap(), &tar).unwrap();
    let mut listed = String::new();
    list.stdout.take().unwrap().read_to_string(&mut listed).unwrap();
    assert!(list.wait().unwrap().success());
    assert_eq!(listed.lines().count(), 7, "{listed}");
    fs::remove_dir_all(source).unwrap();
}

#[derive(Debug, Clone)]
enum Step {
    File(String),
    Folder(String),
    Symlink(String, String),
    Hardlink(String, String),
}

fn name() -> impl Strategy<Value = String> {
    prop::collection::vec(
        prop_oneof![Just("a"), Just("b"), Just(".."), Just("."), Just("outside"), Just(".wh.a"), Just("/")],
        1..4,
    )
    .prop_map(|parts| parts.join("/"))
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        name().prop_map(Step::File),
        name().prop_map(Step::Folder),
        (name(), name()).prop_map(|(a, b)| Step::Symlink(a, b)),
        (name(), name()).prop_map(|(a, b)| Step::Hardlink(a, b)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any order of links, folders and files, whatever their names: nothing outside changes.
    #[test]
    fn nothing_leads_out(steps in prop::collection::vec(step(), 1..12), plain: bool) {
        let place = Place::new();
        let options = if plain { ExtractOptions::plain() } else { ExtractOptions::layer() };
        for step in steps {
            let tar = match step {
                Step::File(p) => Tar::default().file(&p, "evil"),
                Step::Folder(p) => Tar::default().folder(&p),
                Step::Symlink(p, t) => Tar::default().symlink(&p, &t),
                Step::Hardlink(p, t) => Tar::default().hardlink(&p, &t),
            };
            let _ = place.extract(&tar.end(), &options);
        }
        place.assert_untouched();
    }

    /// Damaged archives are refused or read, and never loop or panic.
    #[test]
    fn damage_is_survived(hits in prop::collection::vec((0usize..4096, any::<u8>()), 1..8), fix: bool) {
        let mut tar = Tar::default()
            .pax(&[("path", b"a/b"), ("SCHILY.xattr.user.x", b"y")])
            .file("f", "data")
            .symlink("l", "../outside")
            .folder("l/d")
            .end();
        for (at, byte) in hits {
            let at = at % tar.len();
            tar[at] = byte;
        }
        if fix {
            // With the checksums right again the damage gets further.
            for block in tar.chunks_exact_mut(512) {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                if block.iter().any(|b| *b != 0) {
                    header.set_cksum();
                }
                block.copy_from_slice(header.as_bytes());
            }
        }
        let place = Place::new();
        let limits = Limits { bytes: 1 << 20, ..Limits::default() };
        let _ = place.extract(&tar, &ExtractOptions { limits, ..ExtractOptions::layer() });
        place.assert_untouched();
    }
}

//! The upper folder of an overlay becomes a layer, and the layer the same upper folder again. Needs root (devices and
//! trusted attributes).

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use archive::{CreateOptions, ExtractOptions, OVERLAY_OPAQUE, Times};
use rustix::fs::{CWD, FileType, Mode, XattrFlags};

fn device(path: &Path, number: u64) {
    rustix::fs::mknodat(CWD, path, FileType::CharacterDevice, Mode::from_raw_mode(0o600), number).unwrap();
}

fn members(tar: &[u8]) -> Vec<String> {
    let mut reader = archive::Reader::new(tar, archive::Limits::default());
    let mut names = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        names.push(String::from_utf8(entry.path.clone()).unwrap());
    }
    names
}

#[test]
fn removals_and_hidden_folders_survive_the_way_through_a_layer() {
    let place = tempfile::tempdir().unwrap();
    let (upper, again) = (place.path().join("upper"), place.path().join("again"));
    fs::create_dir_all(upper.join("etc/hidden")).unwrap();
    fs::create_dir(&again).unwrap();
    fs::write(upper.join("etc/new"), "new").unwrap();
    fs::write(upper.join("etc/hidden/only"), "x").unwrap();
    device(&upper.join("gone"), 0);
    device(&upper.join("etc/gone"), 0);
    device(&upper.join("null"), rustix::fs::makedev(1, 3));
    rustix::fs::setxattr(upper.join("etc/hidden"), OVERLAY_OPAQUE, b"y", XattrFlags::empty()).unwrap();
    // Overlayfs' other marks say nothing to anyone else.
    rustix::fs::setxattr(upper.join("etc"), "trusted.overlay.impure", b"y", XattrFlags::empty()).unwrap();

    let mut tar = Vec::new();
    archive::create(File::open(&upper).unwrap().as_fd(), b"", &CreateOptions::layer(), &mut tar).unwrap();
    assert_eq!(
        members(&tar),
        [
            "etc/",
            "etc/.wh.gone",
            "etc/hidden/",
            "etc/hidden/.wh..wh..opq",
            "etc/hidden/only",
            "etc/new",
            ".wh.gone",
            "null"
        ]
    );

    archive::extract(tar.as_slice(), File::open(&again).unwrap().as_fd(), &ExtractOptions::layer()).unwrap();
    for whiteout in ["gone", "etc/gone"] {
        let meta = fs::symlink_metadata(again.join(whiteout)).unwrap();
        assert!(meta.file_type().is_char_device() && meta.rdev() == 0, "{whiteout}");
    }
    assert_eq!(fs::symlink_metadata(again.join("null")).unwrap().rdev(), rustix::fs::makedev(1, 3));
    let mut value = [0; 4];
    let n = rustix::fs::getxattr(again.join("etc/hidden"), OVERLAY_OPAQUE, &mut value).unwrap();
    assert_eq!(&value[..n], b"y");
    assert_eq!(fs::read_to_string(again.join("etc/hidden/only")).unwrap(), "x");
}

#[test]
fn nothing_is_younger_than_it_may_be_and_what_is_older_stays_so() {
    let upper = tempfile::tempdir().unwrap();
    let at = |name: &str, seconds: i64, nanos: i64| {
        let time = rustix::fs::Timespec { tv_sec: seconds, tv_nsec: nanos };
        let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
        let path = upper.path().join(name);
        rustix::fs::utimensat(CWD, &path, &times, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).unwrap();
    };
    fs::create_dir(upper.path().join("folder")).unwrap();
    fs::write(upper.path().join("old"), "").unwrap();
    fs::write(upper.path().join("young"), "").unwrap();
    std::os::unix::fs::symlink("old", upper.path().join("link")).unwrap();
    device(&upper.path().join("gone"), 0);
    rustix::fs::setxattr(upper.path().join("folder"), OVERLAY_OPAQUE, b"y", XattrFlags::empty()).unwrap();
    at("old", 999, 5);
    // Half a second too young is too young.
    at("young", 1000, 500_000_000);
    let mut tar = Vec::new();
    let options = CreateOptions { times: Times::NotAfter(1000), ..CreateOptions::layer() };
    archive::create(File::open(upper.path()).unwrap().as_fd(), b"", &options, &mut tar).unwrap();
    let mut reader = archive::Reader::new(tar.as_slice(), archive::Limits::default());
    let mut times = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        times.push((String::from_utf8(entry.path.clone()).unwrap(), entry.mtime));
    }
    let young = |name: &str| (name.to_owned(), (1000, 0));
    let expected = [
        young("folder/"),
        young("folder/.wh..wh..opq"),
        young(".wh.gone"),
        young("link"),
        ("old".to_owned(), (999, 5)),
        young("young"),
    ];
    assert_eq!(times, expected);
}

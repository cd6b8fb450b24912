//! The upper folder of an overlay becomes a layer, and the layer the same upper folder again. Needs root (devices and
//! trusted attributes).

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use archive::{CreateOptions, ExtractOptions, OVERLAY_OPAQUE};
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

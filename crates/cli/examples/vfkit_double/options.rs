//! The command lines of vfkit, krunkit and gvproxy, as much of them as this double takes; anything else is refused, as
//! they refuse what they don't know. Each option names where its program has it: file and commit of
//! https://github.com/crc-org/vfkit (0.6.4 is what packages bring), https://github.com/libkrun/krunkit (1.3) and
//! https://github.com/containers/gvisor-tap-vsock (0.8).

/// An option: its name and where it stands in the sources.
pub struct Known(pub &'static str, pub &'static str);

/// What a program takes.
pub struct Table {
    /// Words of the command line; each has a value.
    pub flags: &'static [Known],
    /// Options of `--bootloader linux`.
    pub linux: &'static [Known],
    /// Devices and their options.
    pub devices: &'static [(&'static str, &'static str, &'static [Known])],
}

const CMDLINE: &str = "pkg/cmdline/cmdline.go@d1964979d386";
const BOOTLOADER: &str = "pkg/config/bootloader.go@02dfc34948bd";
const VIRTIO: &str = "pkg/config/virtio.go@006fdb4b55a5";
const ROSETTA: &str = "doc/usage.md@01d1d518da87";
const KRUN_CMDLINE: &str = "src/cmdline.rs@bd39be0275cd";
const KRUN_VIRTIO: &str = "src/virtio.rs@3ad3fef5f1e1";
const GVPROXY_CONFIG: &str = "cmd/gvproxy/config.go@dab4e2729fcb";

/// vfkit's. `readonly` is none of virtio-blk's: there it stands for usb-mass-storage alone.
pub const VFKIT: Table = Table {
    flags: &[
        Known("--cpus", CMDLINE),
        Known("--memory", CMDLINE),
        Known("--restful-uri", CMDLINE),
        Known("--bootloader", CMDLINE),
        Known("--device", CMDLINE),
    ],
    linux: &[Known("kernel", BOOTLOADER), Known("initrd", BOOTLOADER), Known("cmdline", BOOTLOADER)],
    devices: &[
        ("virtio-blk", VIRTIO, &[Known("path", VIRTIO), Known("deviceId", VIRTIO)]),
        ("virtio-rng", VIRTIO, &[]),
        ("virtio-serial", VIRTIO, &[Known("logFilePath", VIRTIO)]),
        (
            "virtio-vsock",
            VIRTIO,
            &[
                Known("port", VIRTIO),
                Known("socketURL", VIRTIO),
                Known("connect", VIRTIO),
                Known("listen", VIRTIO),
            ],
        ),
        ("virtio-net", VIRTIO, &[Known("nat", VIRTIO), Known("mac", VIRTIO)]),
        ("virtio-fs", VIRTIO, &[Known("sharedDir", VIRTIO), Known("mountTag", VIRTIO)]),
        ("rosetta", ROSETTA, &[Known("mountTag", ROSETTA), Known("install", ROSETTA)]),
    ],
};

/// krunkit's. It has a `--bootloader efi` for likeness' sake, of which it makes nothing; it boots by firmware alone.
pub const KRUNKIT: Table = Table {
    flags: &[
        Known("--cpus", KRUN_CMDLINE),
        Known("--memory", KRUN_CMDLINE),
        Known("--restful-uri", KRUN_CMDLINE),
        Known("--device", KRUN_CMDLINE),
    ],
    linux: &[],
    devices: &[
        ("virtio-blk", KRUN_VIRTIO, &[Known("path", KRUN_VIRTIO), Known("format", KRUN_VIRTIO)]),
        ("virtio-rng", KRUN_VIRTIO, &[]),
        ("virtio-serial", KRUN_VIRTIO, &[Known("logFilePath", KRUN_VIRTIO)]),
        (
            "virtio-vsock",
            KRUN_VIRTIO,
            &[
                Known("port", KRUN_VIRTIO),
                Known("socketURL", KRUN_VIRTIO),
                Known("connect", KRUN_VIRTIO),
                Known("listen", KRUN_VIRTIO),
            ],
        ),
        ("virtio-net", KRUN_VIRTIO, &[Known("unixSocketPath", KRUN_VIRTIO), Known("mac", KRUN_VIRTIO)]),
        ("virtio-fs", KRUN_VIRTIO, &[Known("sharedDir", KRUN_VIRTIO), Known("mountTag", KRUN_VIRTIO)]),
    ],
};

/// gvproxy's, each with a value.
pub const GVPROXY: &[Known] = &[Known("-listen-vfkit", GVPROXY_CONFIG), Known("-ssh-port", GVPROXY_CONFIG)];

/// Prints all of it: option, file and commit.
pub fn print() {
    for (program, table) in [("vfkit", &VFKIT), ("krunkit", &KRUNKIT)] {
        for Known(name, place) in table.flags {
            println!("{program} {name} {place}");
        }
        for Known(name, place) in table.linux {
            println!("{program} --bootloader linux,{name} {place}");
        }
        for (device, place, options) in table.devices {
            println!("{program} --device {device} {place}");
            for Known(name, place) in *options {
                println!("{program} --device {device},{name} {place}");
            }
        }
    }
    for Known(name, place) in GVPROXY {
        println!("gvproxy {name} {place}");
    }
}

/// What was asked for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Asked {
    pub cpus: u32,
    pub memory_mib: u64,
    pub rest: String,
    pub kernel: String,
    pub initrd: String,
    pub cmdline: String,
    pub disks: Vec<String>,
    pub console: Option<String>,
    pub vsock: Option<(u32, String)>,
    pub mac: Option<String>,
    /// The socket of a network that is a program's.
    pub network: Option<String>,
    /// The tag by which the guest mounts Rosetta.
    pub rosetta: Option<String>,
    pub shares: Vec<(String, String)>,
}

/// Reads the command line; the error is what the program would say.
pub fn parse(table: &Table, mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked { cpus: 1, memory_mib: 512, ..Asked::default() };
    while let Some(flag) = words.next() {
        if !table.flags.iter().any(|known| known.0 == flag) {
            return Err(format!("unknown flag: {flag}"));
        }
        let value = words.next().ok_or_else(|| format!("flag needs an argument: {flag}"))?;
        match flag.as_str() {
            "--cpus" => asked.cpus = value.parse().map_err(|_| format!("invalid argument {value:?}"))?,
            "--memory" => {
                asked.memory_mib = value.parse().map_err(|_| format!("invalid argument {value:?}"))?
            }
            "--restful-uri" => {
                let path = value.strip_prefix("unix://").filter(|path| path.starts_with('/'));
                asked.rest = path.ok_or_else(|| format!("invalid unix uri: {value}"))?.to_owned();
            }
            "--bootloader" => bootloader(table, &mut asked, &value)?,
            "--device" => device(table, &mut asked, &value)?,
            _ => unreachable!("it is in the table"),
        }
    }
    if asked.kernel.is_empty() && !table.linux.is_empty() {
        return Err("empty option list in --bootloader command line argument".into());
    }
    Ok(asked)
}

/// Split at commas that aren't between double quotes.
fn bootloader(table: &Table, asked: &mut Asked, text: &str) -> Result<(), String> {
    let (mut parts, mut quoted) = (vec![String::new()], false);
    for c in text.chars() {
        match c {
            ',' if !quoted => parts.push(String::new()),
            c => {
                quoted ^= c == '"';
                parts.last_mut().expect("one at least").push(c);
            }
        }
    }
    if quoted {
        return Err("mismatched \"".into());
    }
    if parts[0] != "linux" {
        return Err(format!("unknown bootloader type: {}", parts[0]));
    }
    for part in &parts[1..] {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if !table.linux.iter().any(|known| known.0 == key) {
            return Err(format!("Unknown option for linux bootloaders: {key}"));
        }
        match key {
            "kernel" => asked.kernel = value.into(),
            "initrd" => asked.initrd = value.into(),
            _ => asked.cmdline = value.trim_matches('"').into(),
        }
    }
    Ok(())
}

fn device(table: &Table, asked: &mut Asked, text: &str) -> Result<(), String> {
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let Some((.., known)) = table.devices.iter().find(|(name, ..)| *name == kind) else {
        return Err(format!("unknown device type: {kind}"));
    };
    let mut options = Vec::new();
    for part in parts.filter(|part| !part.is_empty()) {
        let (key, value) = part.split_once('=').unwrap_or((part, ""));
        if !known.iter().any(|option| option.0 == key) {
            return Err(format!("Unknown option for {kind} devices: {key}"));
        }
        options.push((key, value.to_owned()));
    }
    let value = |key: &str| options.iter().find(|(k, _)| *k == key).map(|(_, value)| value.clone());
    let needed = |key: &str| value(key).filter(|v| !v.is_empty()).ok_or(format!("{kind} needs {key}"));
    match kind {
        "virtio-blk" => asked.disks.push(needed("path")?),
        "virtio-serial" => asked.console = Some(needed("logFilePath")?),
        "virtio-vsock" => {
            let port = needed("port")?.parse().map_err(|_| "virtio-vsock: port is no number".to_owned())?;
            if value("connect").is_none() {
                return Err("this double has vsock for connections of the host alone".into());
            }
            let socket = needed("socketURL")?;
            // krunkit takes a path, vfkit a part of an address.
            let socket = if table.linux.is_empty() { socket } else { escaped(&socket) };
            asked.vsock = Some((port, socket));
        }
        "virtio-net" => {
            asked.network = value("unixSocketPath");
            if value("nat").is_none() && asked.network.is_none() {
                return Err("One of 'nat' or 'fd' or 'unixSocketPath' must be set".into());
            }
            asked.mac = value("mac");
        }
        "rosetta" => asked.rosetta = Some(needed("mountTag")?),
        "virtio-fs" => asked.shares.push((needed("sharedDir")?, needed("mountTag")?)),
        _ => {}
    }
    Ok(())
}

/// Where vfkit listens (pkg/vf/vsock.go@8207112d4e20): Go's `EscapedPath` of what it was given.
fn escaped(path: &str) -> String {
    let stands = |b: &u8| b.is_ascii_alphanumeric() || b"/-._~$&+,:;=@!'()*[]%".contains(b);
    if path.bytes().all(|b| stands(&b)) {
        return path.to_owned();
    }
    path.bytes().map(|b| if stands(&b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

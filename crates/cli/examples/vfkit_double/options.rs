//! vfkit's command line, as much of it as this double takes; anything else is refused, as vfkit refuses what it doesn't
//! know. Each option names where vfkit (https://github.com/crc-org/vfkit) has it: file and commit.

/// An option of vfkit: its name and where it stands in the sources.
pub struct Known(pub &'static str, pub &'static str);

const CMDLINE: &str = "pkg/cmdline/cmdline.go@d1964979d386";
const BOOTLOADER: &str = "pkg/config/bootloader.go@02dfc34948bd";
const VIRTIO: &str = "pkg/config/virtio.go@006fdb4b55a5";

/// Words of the command line; each has a value.
pub const FLAGS: &[Known] = &[
    Known("--cpus", CMDLINE),
    Known("--memory", CMDLINE),
    Known("--restful-uri", CMDLINE),
    Known("--bootloader", CMDLINE),
    Known("--device", CMDLINE),
];

/// Options of `--bootloader linux`.
pub const LINUX: &[Known] =
    &[Known("kernel", BOOTLOADER), Known("initrd", BOOTLOADER), Known("cmdline", BOOTLOADER)];

/// Devices and their options. `readonly` is none of virtio-blk's: there it stands for usb-mass-storage alone.
pub const DEVICES: &[(&str, &[Known])] = &[
    ("virtio-blk", &[Known("path", VIRTIO), Known("deviceId", VIRTIO)]),
    ("virtio-rng", &[]),
    ("virtio-serial", &[Known("logFilePath", VIRTIO)]),
    (
        "virtio-vsock",
        &[
            Known("port", VIRTIO),
            Known("socketURL", VIRTIO),
            Known("connect", VIRTIO),
            Known("listen", VIRTIO),
        ],
    ),
    ("virtio-net", &[Known("nat", VIRTIO), Known("mac", VIRTIO)]),
    ("virtio-fs", &[Known("sharedDir", VIRTIO), Known("mountTag", VIRTIO)]),
];

/// Prints all of it: option, file and commit.
pub fn print() {
    for Known(name, place) in FLAGS {
        println!("{name} {place}");
    }
    for Known(name, place) in LINUX {
        println!("--bootloader linux,{name} {place}");
    }
    for (device, options) in DEVICES {
        println!("--device {device} {VIRTIO}");
        for Known(name, place) in *options {
            println!("--device {device},{name} {place}");
        }
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
    pub shares: Vec<(String, String)>,
}

/// Reads the command line; the error is what vfkit would say.
pub fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked { cpus: 1, memory_mib: 512, ..Asked::default() };
    while let Some(flag) = words.next() {
        if !FLAGS.iter().any(|known| known.0 == flag) {
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
            "--bootloader" => bootloader(&mut asked, &value)?,
            "--device" => device(&mut asked, &value)?,
            _ => unreachable!("it is in the table"),
        }
    }
    if asked.kernel.is_empty() {
        return Err("empty option list in --bootloader command line argument".into());
    }
    Ok(asked)
}

/// Split at commas that aren't between double quotes.
fn bootloader(asked: &mut Asked, text: &str) -> Result<(), String> {
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
        if !LINUX.iter().any(|known| known.0 == key) {
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

fn device(asked: &mut Asked, text: &str) -> Result<(), String> {
    let mut parts = text.split(',');
    let kind = parts.next().unwrap_or_default();
    let Some((_, known)) = DEVICES.iter().find(|(name, _)| *name == kind) else {
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
            asked.vsock = Some((port, needed("socketURL")?));
        }
        "virtio-net" => {
            if value("nat").is_none() {
                return Err("One of 'nat' or 'fd' or 'unixSocketPath' must be set".into());
            }
            asked.mac = value("mac");
        }
        "virtio-fs" => asked.shares.push((needed("sharedDir")?, needed("mountTag")?)),
        _ => {}
    }
    Ok(())
}

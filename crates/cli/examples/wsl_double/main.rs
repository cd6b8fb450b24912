//! In `wsl.exe`'s place, for tests: takes its command line, strictly, and says what it says as old ones do, in UTF-16 and
//! in another language than English. It is a client as the real one is: the service behind it is `serve`, on Linux, whose
//! distributions are folders, each entered in namespaces of its own, all of them in one network namespace as WSL's are.
//!
//! What it can't show: Windows' kernel, its disks and drives, its network; `wsl.exe`'s own terminal and relay.
//!
//! ```text
//! wsl_double serve FOLDER     the service (root's; ends with its standard input); prints its address
//! wsl_double --known          the options it takes, and where WSL has them
//! wsl_double ...              wsl.exe; CORACLE_WSL_DOUBLE names the service's address
//! ```
//!
//! `CORACLE_DOUBLE` injects faults, divided by commas: `off` (Windows' part is not there), `import` (refused), `cut` (the import dies on its
//! way), `unpack` (fails), `dies` (the guest ends at once), `mute` (there is no guest), `deaf` (nothing can be terminated).

mod options;
#[cfg(target_os = "linux")]
mod service;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::ExitCode,
};

use serde_json::json;

/// Kinds of what the service sends: each a byte, four of length, the rest.
pub const EXIT: u8 = 0;
/// What a program wrote to its standard output.
pub const OUT: u8 = 1;
/// The same to its standard error.
pub const ERR: u8 = 2;
/// Words of its own, which `wsl.exe` writes as UTF-16.
pub const WORDS: u8 = 3;
/// How `wsl.exe` ends when it failed itself.
pub const FAILED: i32 = -1;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("--known") => {
            options::print();
            return ExitCode::SUCCESS;
        }
        #[cfg(target_os = "linux")]
        Some("serve") => return service::serve(std::path::Path::new(&args[1])),
        #[cfg(target_os = "linux")]
        Some("init") => return service::init(std::path::Path::new(&args[1]), &args[2]),
        _ => {}
    }
    let code = client(&args).unwrap_or_else(|error| {
        say(&format!("Der Dienst ist nicht erreichbar: {error}\r\nFehlercode: Wsl/E_UNEXPECTED\r\n"));
        FAILED
    });
    std::process::exit(code)
}

fn client(args: &[String]) -> std::io::Result<i32> {
    if let Err(why) = options::parse(args) {
        say(&format!("Ungültige Befehlszeile.\r\nFehlercode: {why}\r\n"));
        return Ok(FAILED);
    }
    let address = std::env::var("CORACLE_WSL_DOUBLE").map_err(std::io::Error::other)?;
    let mut service = TcpStream::connect(address)?;
    service.set_nodelay(true)?;
    let faults = std::env::var("CORACLE_DOUBLE").unwrap_or_default();
    let asked = json!({ "args": args.iter().map(|a| unix(a)).collect::<Vec<_>>(), "faults": faults });
    service.write_all(format!("{asked}\n").as_bytes())?;
    let mut up = service.try_clone()?;
    std::thread::spawn(move || {
        let mut bytes = vec![0; 32 * 1024];
        loop {
            // An empty piece is the end.
            let n = std::io::stdin().lock().read(&mut bytes).unwrap_or(0);
            if up.write_all(&(n as u32).to_le_bytes()).and_then(|()| up.write_all(&bytes[..n])).is_err()
                || n == 0
            {
                return;
            }
        }
    });
    loop {
        let mut head = [0; 5];
        service.read_exact(&mut head)?;
        let mut piece = vec![0; u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize];
        service.read_exact(&mut piece)?;
        match head[0] {
            EXIT => return Ok(i32::from_le_bytes(piece.try_into().unwrap_or_default())),
            OUT => {
                let mut out = std::io::stdout().lock();
                out.write_all(&piece)?;
                out.flush()?;
            }
            ERR => std::io::stderr().lock().write_all(&piece)?,
            _ => say(&String::from_utf8_lossy(&piece)),
        }
    }
}

/// As `wsl.exe` writes: UTF-16LE, on its standard output.
fn say(text: &str) {
    let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&bytes).and_then(|()| out.flush());
}

/// A path under wine as the service sees it: drive Z is the root there, C a folder of wine's.
fn unix(arg: &str) -> String {
    let prefix = std::env::var("WINEPREFIX").unwrap_or_default();
    let drives = [("Z:\\", "/".to_owned()), ("C:\\", format!("{prefix}/drive_c/"))];
    let found = drives.iter().find_map(|(drive, root)| Some((root, arg.strip_prefix(drive)?)));
    found.map_or_else(|| arg.to_owned(), |(root, below)| format!("{root}{}", below.replace('\\', "/")))
}

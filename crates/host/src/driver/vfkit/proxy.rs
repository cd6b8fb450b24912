//! The network of a guest whose hypervisor has none: gvproxy (https://github.com/containers/gvisor-tap-vsock), a program
//! beside it that takes the guest's frames by a socket, gives it an address, and is its gateway and name server.
//!
//! ```text
//! machine/net.sock     frames, each a datagram
//! machine/gvproxy.log  what it says
//! machine/gvproxy.pid  its pid, written by itself: known also of one whose daemon was killed before its guest was recorded
//! ```

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::PathBuf,
    process::{Command, Stdio},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::super::{Event, Tell};
use crate::{Home, HostError, log::tail, parts, platform};

/// The address that leads to this computer's loopback (the last one of gvproxy's network).
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 127, 254);
/// Time in which it must have made its socket, and pause between two looks.
const LISTENS: (Duration, Duration) = (Duration::from_secs(10), Duration::from_millis(10));
/// Lines of what it said that make an error.
const SAID_LINES: usize = 3;
/// Where its pid is.
const PID_FILE: &str = "gvproxy.pid";

/// Ends one that nobody recorded: it is started before its guest, whose record has it.
fn end_unrecorded(home: &Home) {
    let text = fs::read_to_string(home.machine(PID_FILE)).ok();
    text.and_then(|text| text.parse().ok()).inspect(|pid| end(home, *pid));
}

/// One that runs; ended with this value unless it is kept.
pub struct Proxy {
    pid: u32,
}

/// Its socket in a home.
pub fn socket(home: &Home) -> PathBuf {
    home.machine("net.sock")
}

/// The socket's other end, which krunkit makes beside it (libkrun's src/devices/src/virtio/net/unixgram.rs): the longest
/// path of a home's sockets.
fn other_end(home: &Home) -> PathBuf {
    home.machine("net.sock-krun.sock")
}

/// What it said last.
pub fn said(home: &Home) -> String {
    tail(&home.machine("gvproxy.log"), SAID_LINES)
}

impl Proxy {
    /// Starts one in the place of any that is left; returns when it listens. Its end is told.
    pub async fn start(home: &Home, tell: Tell) -> Result<Self, HostError> {
        let other = other_end(home);
        let len = other.as_os_str().len();
        if len > platform::SOCKET_PATH {
            return Err(HostError::PathTooLong { path: other, len, max: platform::SOCKET_PATH });
        }
        let program = parts::gvproxy()?;
        end_unrecorded(home);
        let (socket, log) = (socket(home), home.machine("gvproxy.log"));
        let _ = fs::remove_file(&socket); // it refuses to listen where something is
        let file = File::create(&log).map_err(HostError::io("making", &log))?;
        let mut command = Command::new(&program);
        // By default it forwards a port of this computer to the guest's ssh, which has none.
        command
            .arg("-listen-vfkit")
            .arg(format!("unixgram://{}", socket.display()))
            .args(["-ssh-port", "-1"]);
        command.stdout(Stdio::null()).stderr(Stdio::from(file));
        let noted = platform::spawn_noted(&mut command, &home.machine(PID_FILE));
        let mut child = noted.map_err(HostError::io("running", &program))?;
        let this = Self { pid: child.id() };
        // Told of its end by the system while it is our child; whoever takes over looks for themselves.
        std::thread::spawn(move || {
            let _ = child.wait();
            tell(Event::NetworkLost);
        });
        let deadline = Instant::now() + LISTENS.0;
        while !socket.exists() {
            if !platform::alive(this.pid) || Instant::now() > deadline {
                return Err(HostError::Network(said(home)));
            }
            sleep(LISTENS.1).await; // it makes its socket when it likes
        }
        Ok(this)
    }

    /// The guest has it: it lives as long as that one. Gives its process.
    pub fn keep(self) -> u32 {
        let pid = self.pid;
        std::mem::forget(self);
        pid
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.pid
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        platform::end(self.pid, true);
    }
}

/// Ends the one of a guest that is gone, if it is ours: a pid alone may be anybody's.
pub fn end(home: &Home, pid: u32) {
    if platform::command_names(pid, &socket(home).to_string_lossy()) {
        platform::end(pid, true);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_home_with_no_room_for_krunkits_own_socket_is_refused_in_words() {
        let dir = tempfile::tempdir().unwrap();
        let fills = platform::SOCKET_PATH - "/machine/link.sock".len() - dir.path().as_os_str().len() - 1;
        let home = Home::at(dir.path().join("h".repeat(fills)), false).unwrap();
        let error = Proxy::start(&home, Arc::new(|_| ())).await.err().unwrap();
        assert_eq!(error.code(), "path_too_long");
    }
}

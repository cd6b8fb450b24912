//! Another machine beside a test's own: a network namespace with a wire to the sandbox.

use std::process::Command;

use crate::Sandbox;

/// The machine at the other end of the wire. Its addresses are 10.98.0.2 and fd98::2, the sandbox's 10.98.0.1 and
/// fd98::1.
pub struct Neighbour(Sandbox);

impl Neighbour {
    /// Connects one; goes with its value, and the wire with it.
    pub fn of(sandbox: &Sandbox) -> Self {
        let this = Self(Sandbox::new());
        let pid = this.0.pid();
        let run = |mut command: Command, line: &str| {
            let done = command.args(line.split(' ')).status();
            assert!(done.is_ok_and(|s| s.success()), "ip {line}");
        };
        let wire = format!("link add wire type veth peer name wire netns {pid}");
        run(sandbox.command("ip"), &wire);
        for (end, number) in [(true, 1), (false, 2)] {
            let ip = || if end { sandbox.command("ip") } else { this.command("ip") };
            run(ip(), &format!("addr add 10.98.0.{number}/24 dev wire"));
            run(ip(), &format!("addr add fd98::{number}/64 dev wire nodad"));
            run(ip(), "link set wire up");
        }
        this
    }

    /// A command that runs there.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.0.command(program)
    }

    /// curl from there.
    pub fn curl(&self, url: &str) -> crate::Outcome {
        self.command("curl").args(["-s", "--max-time", "5", url]).output().expect("curl").into()
    }
}

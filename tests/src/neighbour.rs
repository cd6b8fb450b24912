//! Another machine beside a test's own: a network namespace with a wire to the sandbox.

use std::process::{Child, Command, Stdio};

use crate::Sandbox;

/// The machine at the other end of the wire. Its addresses are 10.98.0.2 and fd98::2, the sandbox's 10.98.0.1 and
/// fd98::1.
pub struct Neighbour {
    holder: Child,
}

impl Neighbour {
    /// Connects one; goes with its value, and the wire with it.
    pub fn of(sandbox: &Sandbox) -> Self {
        let holder = Command::new("unshare")
            .args([
                "--net",
                "--kill-child",
                "sh",
                "-c",
                "ip link set lo up && echo up && exec sleep infinity",
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut this = Self { holder };
        let mut line = String::new();
        let out = this.holder.stdout.take().expect("piped");
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("it speaks");
        let pid = this.holder.id().to_string();
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
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--"]).arg(program);
        command
    }

    /// curl from there.
    pub fn curl(&self, url: &str) -> crate::Outcome {
        self.command("curl").args(["-s", "--max-time", "5", url]).output().expect("curl").into()
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        // Already dead is fine.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

//! Namespaces of a test's own, and a registry inside them.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::{eventually, tool};

/// Network and mount namespaces that live as long as this value.
pub struct Sandbox {
    holder: Child,
}

impl Sandbox {
    /// Makes them, with the loopback link up. Needs root, as the engine itself does.
    pub fn new() -> Self {
        let holder = Command::new("unshare")
            .args([
                "--net",
                "--mount",
                "--propagation",
                "private",
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
        std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line)
            .expect("the sandbox speaks");
        assert_eq!(line, "up\n", "the sandbox did not come up: these tests need root");
        this
    }

    /// The process that holds them.
    pub(crate) fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// Where a path of the inside is seen from outside.
    pub fn seen(&self, path: &Path) -> PathBuf {
        let inside = path.strip_prefix("/").expect("an absolute path");
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }

    /// Mounts a file system in memory that holds so many bytes; it goes with the sandbox.
    pub fn small_disk(&self, at: &Path, bytes: u64) {
        std::fs::create_dir_all(at).expect("make the folder");
        let mut mount = self.command("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={bytes},mode=755"), "coracle-test"]).arg(at);
        assert!(mount.status().is_ok_and(|s| s.success()), "mount a tmpfs at {}", at.display());
    }

    /// Gives the inside an `/etc` of its own: what is written there stays in `folder`.
    pub fn own_etc(&self, folder: &Path) {
        let (upper, work) = (folder.join("upper"), folder.join("work"));
        for folder in [&upper, &work] {
            std::fs::create_dir_all(folder).expect("make the folder");
        }
        let options = format!("lowerdir=/etc,upperdir={},workdir={}", upper.display(), work.display());
        let mut mount = self.command("mount");
        mount.args(["-t", "overlay", "overlay", "-o", &options, "/etc"]);
        assert!(mount.status().is_ok_and(|s| s.success()), "mount an /etc");
    }

    /// A command that runs inside.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.holder.id().to_string(), "--net", "--mount", "--"]).arg(program);
        command
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        // Already dead is fine: the namespaces are gone either way.
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// Debian's docker-registry on 127.0.0.1:5000 of a sandbox.
pub struct Registry {
    process: Child,
}

impl Registry {
    /// User and password of a private one.
    pub const LOGIN: (&str, &str) = ("someone", "rasmuslerdorf");

    /// Starts it with its files below `folder`.
    pub fn start(sandbox: &Sandbox, folder: &Path) -> Self {
        Self::start_with(sandbox, folder, "")
    }

    /// Starts one that only [`Self::LOGIN`] may use.
    pub fn start_private(sandbox: &Sandbox, folder: &Path) -> Self {
        // bcrypt of the password, by crypt(3).
        const SUM: &str = "$2y$07$BCryptRequires22Chrcte/VlQH0piJtjXl.0t1XkA8pw9dMXTpOq";
        let users = folder.join("htpasswd");
        std::fs::write(&users, format!("{}:{SUM}\n", Self::LOGIN.0)).expect("write the registry's users");
        let auth = format!("auth: {{htpasswd: {{realm: test, path: {}}}}}\n", users.display());
        Self::start_with(sandbox, folder, &auth)
    }

    /// Starts one on this host's own loopback, at a free port, which it answers; with a certificate of `folder`
    /// ([`crate::certificates`]), for the name that it is of.
    pub fn start_secure(folder: &Path, name: &str) -> (Self, u16) {
        let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr());
        let port = free.expect("a free port").port();
        let file = |name: String| folder.join(name).display().to_string();
        let (certificate, key) = (file(format!("{name}.pem")), file(format!("{name}-key.pem")));
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"127.0.0.1:{port}\", tls: {{certificate: {certificate}, key: {key}}}}}\n",
            file("registry".into())
        );
        let config = folder.join("registry.yml");
        std::fs::write(&config, text).expect("write the registry's settings");
        let mut command = Command::new(tool("CORACLE_TEST_REGISTRY"));
        command.arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let this = Self { process: command.spawn().expect("docker-registry") };
        eventually("the registry answers", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        (this, port)
    }

    fn start_with(sandbox: &Sandbox, folder: &Path, more: &str) -> Self {
        let root = folder.join("registry");
        std::fs::create_dir_all(&root).expect("make the registry's folder");
        let config = folder.join("registry.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\nhttp: {{addr: \"127.0.0.1:5000\"}}\n{more}",
            root.display()
        );
        std::fs::write(&config, text).expect("write the registry's settings");
        let process = sandbox
            .command(tool("CORACLE_TEST_REGISTRY"))
            .arg("serve")
            .arg(&config)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("docker-registry");
        let this = Self { process };
        eventually("the registry answers", || {
            let mut curl = sandbox.command("curl");
            // A private one refuses: that is an answer too.
            curl.args(["-s", "http://127.0.0.1:5000/v2/"]).stdout(Stdio::null());
            curl.status().is_ok_and(|s| s.success())
        });
        this
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

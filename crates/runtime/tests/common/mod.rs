//! A runtime of its own per test, with a root made of one static busybox.
//!
//! Needs root and a static busybox: `CORACLE_TEST_BUSYBOX`, else `/bin/busybox` (Debian: busybox-static).

#![allow(dead_code)]

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType as Ns,
    LinuxResourcesBuilder, Process, ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};
use runtime::{
    AttachWant, Attachment, Bundle, Config, Container, Exit, LogConfig, RootFs, Runtime, Stdio, seccomp, spec,
};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::io::AsyncReadExt as _;

/// Nothing in these tests takes this long unless it hangs.
pub const DEADLINE: Duration = Duration::from_secs(5);

pub struct Machine {
    pub dir: tempfile::TempDir,
    pub runtime: Runtime,
    parent: String,
    next: AtomicU32,
}

/// The machine, or `None` with the reason printed where it cannot be had.
pub fn machine() -> Option<Machine> {
    machine_in("")
}

/// A machine whose folders lie `deep` below the temporary folder.
pub fn machine_in(deep: &str) -> Option<Machine> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: this test needs root");
        return None;
    }
    let busybox =
        std::env::var_os("CORACLE_TEST_BUSYBOX").map_or_else(|| "/bin/busybox".into(), PathBuf::from);
    if !busybox.exists() {
        eprintln!("skipped: no busybox at {} (set CORACLE_TEST_BUSYBOX)", busybox.display());
        return None;
    }
    let dir = tempfile::Builder::new().prefix("coracle-runtime-").tempdir().unwrap();
    let lower = dir.path().join("image");
    for folder in ["bin", "dev", "etc", "proc", "root", "sys", "tmp"] {
        std::fs::create_dir_all(lower.join(folder)).unwrap();
    }
    std::fs::copy(&busybox, lower.join("bin/busybox")).unwrap();
    for applet in
        std::process::Command::new(&busybox).arg("--list").output().unwrap().stdout.split(|b| *b == b'\n')
    {
        let applet = std::str::from_utf8(applet).unwrap();
        if !applet.is_empty() && applet != "busybox" {
            std::os::unix::fs::symlink("/bin/busybox", lower.join("bin").join(applet)).unwrap();
        }
    }
    std::fs::write(
        lower.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\nbob:x:1000:1000::/home/bob:/bin/sh\n",
    )
    .unwrap();
    let parent = format!("coracle-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    let runtime = Runtime::new(Config {
        shim: env!("CARGO_BIN_EXE_coracle-shim").into(),
        exec_root: dir.path().join(deep).join("run"),
        cgroup_parent: parent.clone(),
    })
    .unwrap();
    Some(Machine { dir, runtime, parent, next: AtomicU32::new(0) })
}

impl Drop for Machine {
    fn drop(&mut self) {
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let parent = Path::new(root).join(&self.parent);
            if !parent.join("cgroup.procs").exists() {
                continue;
            }
            let _ = std::fs::write(parent.join("cgroup.kill"), "1");
            for _ in 0..100_000 {
                for group in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(group.path());
                }
                if std::fs::remove_dir(&parent).is_ok() {
                    break;
                }
                std::thread::yield_now();
            }
        }
    }
}

pub fn all_sets(caps: &[Capability]) -> oci_spec::runtime::LinuxCapabilities {
    let set: HashSet<Capability> = caps.iter().copied().collect();
    LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()
        .unwrap()
}

pub fn process(args: &[&str]) -> Process {
    let mut process = ProcessBuilder::default()
        .args(args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
        .env(vec!["PATH=/usr/bin:/bin".to_owned()])
        .cwd("/")
        .user(UserBuilder::default().uid(0u32).gid(0u32).build().unwrap())
        .capabilities(all_sets(&spec::DEFAULT_CAPABILITIES))
        .no_new_privileges(false)
        .build()
        .unwrap();
    process.set_rlimits(None);
    process
}

/// A container as Docker would make it, without a network.
pub fn docker_spec(args: &[&str]) -> Spec {
    let namespaces = [Ns::Mount, Ns::Uts, Ns::Ipc, Ns::Pid, Ns::Network, Ns::Cgroup]
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build().unwrap())
        .collect::<Vec<_>>();
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .masked_paths(spec::MASKED_PATHS.map(str::to_owned).to_vec())
        .readonly_paths(spec::READONLY_PATHS.map(str::to_owned).to_vec())
        .resources(LinuxResourcesBuilder::default().devices(spec::default_device_rules()).build().unwrap())
        .build()
        .unwrap();
    SpecBuilder::default()
        .process(process(args))
        .mounts(spec::default_mounts(spec::DEFAULT_SHM_SIZE))
        .hostname("box")
        .root(RootBuilder::default().path("rootfs").readonly(false).build().unwrap())
        .linux(linux)
        .build()
        .unwrap()
}

pub fn default_filter() -> Arc<[u8]> {
    let profile = seccomp::docker_default(&spec::DEFAULT_CAPABILITIES, seccomp::Kernel::running()).unwrap();
    seccomp::compile(&profile).unwrap().into()
}

impl Machine {
    /// Its groups' parent.
    pub fn parent(&self) -> &str {
        &self.parent
    }

    /// A bundle for `args` with everything at Docker's defaults.
    pub fn bundle(&self, args: &[&str]) -> Bundle {
        self.bundle_of(docker_spec(args))
    }

    pub fn bundle_of(&self, spec: Spec) -> Bundle {
        let id = format!("c{}", self.next.fetch_add(1, Ordering::Relaxed));
        let own = self.dir.path().join("containers").join(&id);
        for folder in ["upper", "work"] {
            std::fs::create_dir_all(own.join(folder)).unwrap();
        }
        Bundle {
            id,
            spec,
            rootfs: RootFs::Overlay {
                lower: vec![self.dir.path().join("image")],
                upper: own.join("upper"),
                work: own.join("work"),
            },
            stdio: Stdio::default(),
            log: LogConfig::JsonFile {
                path: own.join("json.log"),
                max_size: None,
                max_file: 1,
                compress: false,
            },
            seccomp: Some(default_filter()),
            exit_file: own.join("exit.json"),
            cgroup_parent: None,
            oci: None,
        }
    }

    pub fn upper(&self, id: &str) -> PathBuf {
        self.dir.path().join("containers").join(id).join("upper")
    }

    /// Runs it to its end and returns exit and output (stdout and stderr one after the other).
    pub async fn run(&self, bundle: Bundle) -> (Exit, String) {
        let tty = bundle.stdio.tty;
        let container = self.runtime.create(bundle).await.unwrap();
        let attachment = container.attach(output()).await.unwrap();
        container.start().await.unwrap();
        let text = read_all(attachment, tty).await;
        let exit = within(container.wait()).await.unwrap();
        container.delete().await.unwrap();
        (exit, text)
    }

    /// Output of a shell script under Docker's defaults.
    pub async fn sh(&self, script: &str) -> (u8, String) {
        let (exit, text) = self.run(self.bundle(&["sh", "-c", script])).await;
        (exit.code, text)
    }
}

pub fn output() -> AttachWant {
    AttachWant { stdout: true, stderr: true, ..AttachWant::default() }
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("this hangs")
}

/// Everything an attachment carries, unframed.
pub async fn read_all(mut attachment: Attachment, tty: bool) -> String {
    let mut bytes = Vec::new();
    within(attachment.reader.read_to_end(&mut bytes)).await.unwrap();
    let bytes = if tty { bytes } else { unframe(&bytes).into_iter().flat_map(|(_, b)| b).collect() };
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Docker's stdcopy frames: stream and bytes.
pub fn unframe(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let length = u32::from_be_bytes(bytes[4..8].try_into().unwrap()) as usize;
        frames.push((bytes[0], bytes[8..8 + length].to_vec()));
        bytes = &bytes[8 + length..];
    }
    frames
}

/// Reads until `wanted` has appeared.
pub async fn read_until(attachment: &mut Attachment, wanted: &str) -> String {
    let mut text = String::new();
    let mut chunk = [0; 4096];
    while !text.contains(wanted) {
        let read = within(attachment.reader.read(&mut chunk)).await.unwrap();
        assert!(read > 0, "the output ended before {wanted:?}: {text:?}");
        text.push_str(&String::from_utf8_lossy(&chunk[..read]));
    }
    text
}

/// Creates and starts.
pub async fn started(machine: &Machine, bundle: Bundle) -> Container {
    let container = machine.runtime.create(bundle).await.unwrap();
    container.start().await.unwrap();
    container
}

//! What a container costs: `bench SHIM BUSYBOX [RUNS]`, as root. Medians of create + start + exit + delete of
//! `/bin/true`, of an exec, and the memory of 50 shims.

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxNamespaceBuilder, LinuxNamespaceType as Ns,
    LinuxResourcesBuilder, ProcessBuilder, Spec, SpecBuilder,
};
use runtime::{Bundle, Config, Container, ExecSpec, LogConfig, RootFs, Runtime, Stdio, seccomp, spec};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome<()> {
    let mut args = std::env::args().skip(1);
    let (Some(shim), Some(busybox)) = (args.next(), args.next()) else {
        return Err("usage: bench SHIM BUSYBOX [RUNS]".into());
    };
    let runs: usize = args.next().map_or(Ok(200), |n| n.parse())?;
    let dir = tempfile::tempdir()?;
    let image = dir.path().join("image");
    for folder in ["bin", "dev", "etc", "proc", "sys", "tmp"] {
        std::fs::create_dir_all(image.join(folder))?;
    }
    std::fs::copy(&busybox, image.join("bin/busybox"))?;
    for applet in ["true", "sleep", "seq"] {
        std::os::unix::fs::symlink("busybox", image.join("bin").join(applet))?;
    }
    let runtime = Runtime::new(Config {
        shim: PathBuf::from(shim),
        exec_root: dir.path().join("run"),
        cgroup_parent: format!("coracle-bench-{}", std::process::id()),
    })?;
    let clock = Instant::now();
    let profile = seccomp::docker_default(&spec::DEFAULT_CAPABILITIES, seccomp::Kernel::running())?;
    let filter: Arc<[u8]> = seccomp::compile(&profile)?.into();
    println!(
        "seccomp profile resolved and compiled: {:?}, {} instructions",
        clock.elapsed(),
        filter.len() / 8
    );

    let mut whole = Vec::new();
    let mut steps: [Vec<Duration>; 4] = Default::default();
    for n in 0..runs {
        let bundle = bundle(dir.path(), &format!("t{n}"), &["true"], &filter)?;
        let begin = Instant::now();
        let container = runtime.create(bundle).await?;
        steps[0].push(begin.elapsed());
        let clock = Instant::now();
        container.start().await?;
        steps[1].push(clock.elapsed());
        let clock = Instant::now();
        assert_eq!(container.wait().await?.code, 0);
        steps[2].push(clock.elapsed());
        let clock = Instant::now();
        container.delete().await?;
        steps[3].push(clock.elapsed());
        whole.push(begin.elapsed());
    }
    let [create, start, wait, delete] = steps.map(median);
    println!(
        "/bin/true, {runs} runs: {:?} (create {create:?}, start {start:?}, wait {wait:?}, delete {delete:?})",
        median(whole)
    );

    let mut lines = bundle(dir.path(), "lines", &["seq", "1", "1000000"], &filter)?;
    let log = dir.path().join("lines.log");
    lines.log = LogConfig::JsonFile { path: log.clone(), max_size: None, max_file: 1, compress: false };
    let clock = Instant::now();
    let container = runtime.create(lines).await?;
    container.start().await?;
    container.wait().await?;
    println!("1e6 lines logged: {:?}", clock.elapsed());
    container.delete().await?;
    let clock = Instant::now();
    let mut reader = runtime::logs::read(log, runtime::logs::Options::default(), None).await?;
    let mut count = 0;
    while reader.next().await?.is_some() {
        count += 1;
    }
    println!("{count} entries read: {:?}", clock.elapsed());

    let clock = Instant::now();
    let mut running = tokio::task::JoinSet::new();
    for n in 0..50 {
        let (runtime, bundle) =
            (runtime.clone(), bundle(dir.path(), &format!("s{n}"), &["sleep", "1000"], &filter)?);
        running.spawn(async move {
            let container = runtime.create(bundle).await?;
            container.start().await?;
            Ok::<Container, runtime::Error>(container)
        });
    }
    let mut containers = Vec::new();
    while let Some(made) = running.join_next().await {
        containers.push(made??);
    }
    println!("50 in parallel, created and started: {:?}", clock.elapsed());
    let mut execs = Vec::new();
    for n in 0..runs.min(100) {
        let process = process(&["true"])?;
        let clock = Instant::now();
        let exec =
            ExecSpec { process, tty: false, stdin: false, stdout: true, stderr: true, console_size: None };
        let exec = containers[n % containers.len()].exec(exec).await?;
        exec.start().await?;
        assert_eq!(exec.wait().await?.code, 0);
        execs.push(clock.elapsed());
    }
    println!("exec true: {:?}", median(execs));
    let mut memory = [0u64; 3];
    for n in 0..50 {
        let state = std::fs::read(dir.path().join(format!("run/s{n}/state.json")))?;
        let state: serde_json::Value = serde_json::from_slice(&state)?;
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", state["shim"]))?;
        for (at, key) in ["Pss:", "Rss:", "Private_Dirty:"].into_iter().enumerate() {
            let line = rollup.lines().find(|l| l.starts_with(key)).unwrap_or("0 0");
            memory[at] += line.split_whitespace().nth(1).unwrap_or("0").parse::<u64>()?;
        }
    }
    println!(
        "per shim of 50: PSS {} kB, RSS {} kB, private dirty {} kB",
        memory[0] / 50,
        memory[1] / 50,
        memory[2] / 50
    );
    let clock = Instant::now();
    let mut removing = tokio::task::JoinSet::new();
    for container in containers {
        removing.spawn(container.delete());
    }
    while let Some(done) = removing.join_next().await {
        done??;
    }
    println!("50 removed while running: {:?}", clock.elapsed());
    for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        let _ = std::fs::remove_dir(Path::new(root).join(format!("coracle-bench-{}", std::process::id())));
    }
    Ok(())
}

fn median(mut all: Vec<Duration>) -> Duration {
    all.sort();
    all[all.len() / 2]
}

fn process(args: &[&str]) -> Outcome<oci_spec::runtime::Process> {
    let set: HashSet<Capability> = spec::DEFAULT_CAPABILITIES.into_iter().collect();
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(set.clone())
        .effective(set.clone())
        .permitted(set)
        .build()?;
    Ok(ProcessBuilder::default()
        .args(args.iter().map(|a| (*a).to_owned()).collect::<Vec<_>>())
        .env(vec!["PATH=/bin".to_owned()])
        .cwd("/")
        .capabilities(capabilities)
        .no_new_privileges(false)
        .build()?)
}

fn bundle(dir: &Path, id: &str, args: &[&str], filter: &Arc<[u8]>) -> Outcome<Bundle> {
    let namespaces = [Ns::Mount, Ns::Uts, Ns::Ipc, Ns::Pid, Ns::Network, Ns::Cgroup]
        .into_iter()
        .map(|kind| LinuxNamespaceBuilder::default().typ(kind).build())
        .collect::<Result<Vec<_>, _>>()?;
    let linux = LinuxBuilder::default()
        .namespaces(namespaces)
        .masked_paths(spec::MASKED_PATHS.map(str::to_owned).to_vec())
        .readonly_paths(spec::READONLY_PATHS.map(str::to_owned).to_vec())
        .resources(LinuxResourcesBuilder::default().devices(spec::default_device_rules()).build()?)
        .build()?;
    let spec: Spec = SpecBuilder::default()
        .process(process(args)?)
        .mounts(spec::default_mounts(spec::DEFAULT_SHM_SIZE))
        .hostname(id)
        .linux(linux)
        .build()?;
    let own = dir.join("containers").join(id);
    for folder in ["upper", "work"] {
        std::fs::create_dir_all(own.join(folder))?;
    }
    Ok(Bundle {
        id: id.to_owned(),
        spec,
        rootfs: RootFs::Overlay {
            lower: vec![dir.join("image")],
            upper: own.join("upper"),
            work: own.join("work"),
        },
        stdio: Stdio::default(),
        log: LogConfig::JsonFile { path: own.join("json.log"), max_size: None, max_file: 1, compress: false },
        seccomp: std::env::var_os("BENCH_UNCONFINED").is_none().then(|| filter.clone()),
        exit_file: own.join("exit.json"),
        cgroup_parent: None,
        oci: None,
    })
}

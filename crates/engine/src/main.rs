//! `coracle-engine`: serves Docker's API on a unix socket.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use engine::api::listen::{self, Listener};
use engine::api::router::{Handler, OPERATIONS};
use engine::config::{EngineConfig, Paths};
use engine::engine::{Engine, Options};
use engine::error::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

#[derive(Parser)]
#[command(name = "coracle-engine", version, about = "Coracle's container engine: serves Docker's API")]
struct Args {
    #[command(subcommand)]
    command: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Serve until SIGTERM, which containers outlive, or SIGPWR, which stops them first (a second one: kills them)
    Serve(Box<Serve>),
    /// List the operations of Docker's API that answer 501, as the README has them
    Operations,
}

#[derive(clap::Args)]
struct Serve {
    /// Socket to serve on
    #[arg(long, default_value = "/run/coracle/docker.sock")]
    socket: PathBuf,
    /// Serve there too: tcp://ADDRESS:PORT, with --tlsverify and its files; may come several times
    #[arg(long = "host", short = 'H', value_name = "HOST")]
    hosts: Vec<String>,
    /// Demand a certificate of who connects over TCP
    #[arg(long)]
    tlsverify: bool,
    /// Certificates that vouch for clients' ones
    #[arg(long, value_name = "FILE")]
    tlscacert: Option<PathBuf>,
    /// This engine's certificate
    #[arg(long, value_name = "FILE")]
    tlscert: Option<PathBuf>,
    /// The key of this engine's certificate
    #[arg(long, value_name = "FILE")]
    tlskey: Option<PathBuf>,
    /// Serve TCP without TLS: whoever reaches the port is root of this machine
    #[arg(long)]
    insecure_tcp: bool,
    /// Folder of images, containers, volumes
    #[arg(long, default_value = "/var/lib/coracle")]
    root: PathBuf,
    /// Folder of this boot's state
    #[arg(long, default_value = "/run/coracle/engine")]
    exec_root: PathBuf,
    /// Settings, in the form of dockerd's daemon.json
    #[arg(long)]
    config: Option<PathBuf>,
    /// Folder of image archives to load once
    #[arg(long)]
    preload: Option<PathBuf>,
    /// Socket on which published ports are asked for, instead of binding them here
    #[arg(long)]
    ports_socket: Option<PathBuf>,
    /// Where containers find the host by the names `host-gateway` and `host.docker.internal` [default: settings]
    #[arg(long, value_name = "IP")]
    host_gateway_ip: Vec<std::net::IpAddr>,
    /// A folder of the host that is mounted here, as HOST=HERE; may come several times
    #[arg(long, value_parser = host_path)]
    host_path: Vec<(PathBuf, PathBuf)>,
    /// File of subnets, one a line, that networks of containers don't get: where the host outside has its own
    #[arg(long, value_name = "FILE")]
    taken_subnets: Option<PathBuf>,
    /// Whose subordinate ids containers' ids are: default, USER or USER:GROUP, by names or numbers
    #[arg(long, value_name = "USER")]
    userns_remap: Option<String>,
    /// The shim's program [default: coracle-shim beside this one]
    #[arg(long)]
    shim: Option<PathBuf>,
}

fn host_path(text: &str) -> std::result::Result<(PathBuf, PathBuf), String> {
    engine::host_paths::HostPaths::parse(text).ok_or_else(|| "two absolute paths as HOST=HERE".to_owned())
}

fn main() -> ExitCode {
    runtime::one_heap_a_processor();
    let args = Args::parse();
    let done = match args.command {
        Verb::Operations => {
            for operation in OPERATIONS {
                match operation.handler {
                    Handler::Missing => {
                        println!("- {} (`{} {}`)", operation.id, operation.method, operation.path)
                    }
                    Handler::Refused(why) => {
                        println!("- {} (`{} {}`): {why}", operation.id, operation.method, operation.path)
                    }
                    Handler::Serves(_) | Handler::NeedsSwarm => {}
                }
            }
            Ok(())
        }
        Verb::Serve(options) => {
            tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(Error::from).and_then(
                |runtime| {
                    let done = runtime.block_on(serve(*options));
                    // Blocking work still under way (a file being removed) is not waited for.
                    runtime.shutdown_background();
                    done
                },
            )
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("coracle-engine: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(options: Serve) -> Result<()> {
    let mut config = match &options.config {
        Some(path) => EngineConfig::read(path)?,
        None => EngineConfig::default(),
    };
    if !options.hosts.is_empty() {
        config.hosts.clone_from(&options.hosts);
    }
    if !options.host_gateway_ip.is_empty() && config.host_gateways().is_empty() {
        config.host_gateway_ips = options.host_gateway_ip;
    }
    config.tlsverify |= options.tlsverify;
    config.tlscacert = options.tlscacert.or(config.tlscacert);
    config.tlscert = options.tlscert.or(config.tlscert);
    config.tlskey = options.tlskey.or(config.tlskey);
    config.userns_remap = options.userns_remap.or(config.userns_remap);
    config.insecure_tcp |= options.insecure_tcp;
    let default_level = if config.debug { "debug" } else { "info" };
    let filter = tracing_subscriber::EnvFilter::try_from_env("CORACLE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new(default_level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).init();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut power = signal(SignalKind::from_raw(libc::SIGPWR))?;

    let shim = match options.shim {
        Some(shim) => shim,
        None => std::env::current_exe()?.with_file_name("coracle-shim"),
    };
    let absolute = |path: PathBuf| std::path::absolute(&path).unwrap_or(path);
    let paths = Paths {
        root: absolute(options.root),
        exec_root: absolute(options.exec_root),
        socket: absolute(options.socket),
        shim,
    };
    let mut listeners = vec![Listener::unix(&paths.socket).await?];
    for host in &config.hosts {
        listeners.push(Listener::host(host, &config).await?);
    }
    let pid_file = paths.exec_root.join("engine.pid");
    let socket = paths.socket.clone();
    let engine = Engine::open(Options {
        config,
        paths,
        ports_socket: options.ports_socket,
        host_paths: options.host_path,
        taken_subnets: options.taken_subnets,
    })
    .await?;
    tokio::fs::write(&pid_file, format!("{}\n", std::process::id())).await?;
    if let Some(folder) = options.preload {
        engine.preload(folder).await?;
    }
    tracing::info!("serving on {}", socket.display());

    let stop = CancellationToken::new();
    let serving = tokio::spawn(listen::serve(engine.clone(), listeners, stop.clone()));
    loop {
        tokio::select! {
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
            _ = power.recv() => {
                tokio::select! {
                    () = engine.stop_containers(false) => {}
                    _ = power.recv() => engine.stop_containers(true).await,
                }
                break;
            }
            _ = hangup.recv() => tracing::info!("SIGHUP: settings are read at start only in this version"),
        }
    }
    stop.cancel();
    serving.await.map_err(|e| Error::internal(e.to_string()))?;
    for file in [&socket, &pid_file] {
        if let Err(e) = std::fs::remove_file(file) {
            tracing::debug!("{}: {e}", file.display());
        }
    }
    Ok(())
}

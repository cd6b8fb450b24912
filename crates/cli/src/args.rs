//! The words of the command line; the help is what users learn from.

use clap::{Parser, Subcommand};

/// Linux containers on this computer.
#[derive(Parser)]
#[command(
    name = "coracle",
    version,
    disable_help_subcommand = true,
    about = "Linux containers on this computer: a small machine that docker, compose and buildx talk to",
    after_help = "\
Begin:
  coracle start                       start the machine
  docker --context coracle run --rm hello-world
  eval \"$(coracle env)\"               let this shell's docker commands go there without --context

When something is wrong:
  coracle status                      what the machine does, and what is wrong with it
  coracle logs, coracle logs --guest  what the daemon said, what the guest said

Everything lies in one folder: CORACLE_HOME, by default ~/.coracle (Windows: %LOCALAPPDATA%\\Coracle).
Exit codes: 0 done, 1 failed (one line says what, why, and what to do), 2 wrong usage, 3 not running."
)]
pub struct Args {
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done.
#[derive(Subcommand)]
pub enum Command {
    /// Start the machine and wait until docker can be used
    Start {
        /// Give up waiting after this many seconds (the machine goes on starting)
        #[arg(long, value_name = "SECONDS", default_value_t = 180)]
        timeout: u64,
    },
    /// Stop the machine: containers get their time to end, disks are written, then it is off
    Stop {
        /// Seconds that containers may take before they are killed
        #[arg(long, value_name = "SECONDS", default_value_t = 20)]
        grace: u64,
    },
    /// Stop the machine and start it anew, with the settings and the version of now
    Restart {
        /// Give up waiting after this many seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 180)]
        timeout: u64,
    },
    /// Say what the machine does (exit code 3 when it is not running)
    Status {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Show what the daemon said
    Logs {
        /// Go on showing what comes
        #[arg(short, long)]
        follow: bool,
        /// What the guest said instead: its kernel and its engine
        #[arg(long)]
        guest: bool,
        /// How many of the last lines
        #[arg(short = 'n', long, value_name = "LINES", default_value_t = 200)]
        lines: usize,
    },
    /// Look at or change settings (they take effect with the next start)
    #[command(after_help = "\
Settings:
  cpus               processors of the guest
  memory-mib         memory of the guest, in MiB (given back while it is not used)
  disk-gib           size of the data disk, in GiB (takes what is used; can only grow)
  driver             Linux: qemu, a guest of its own, or local, the engine on this Linux itself (as root);
                     macOS: vfkit, or on Apple silicon krunkit, which gives back memory
  accel              auto, kvm or tcg
  qemu               path of QEMU, where it is not in PATH
  rosetta            vfkit on Apple silicon alone: true or false, Rosetta instead of an emulator runs programs of amd64
  kernel-arguments   more boot arguments of the guest
  boot-limit-s       seconds in which the guest must answer; 0: what the accelerator needs
  idle-stop-s        seconds without a running container and without a command after which the machine is stopped;
                     the next docker command starts it again; 0: never
  http-proxy, https-proxy, no-proxy
                     proxies of the engine's pulls; empty: those of the environment that the daemon was started in

Example: coracle settings set memory-mib 4096 && coracle restart")]
    Settings {
        #[command(subcommand)]
        action: SettingsAction,
    },
    /// Start the machine whenever you log in, or no longer
    #[command(after_help = "\
Linux: a unit of your own systemd (`systemctl --user status coracle`); macOS: a launchd agent; Windows: a file in the
Startup folder. It takes effect with the next login.")]
    Autostart {
        #[command(subcommand)]
        action: AutostartAction,
    },
    /// Print what sets this shell up for docker: eval "$(coracle env)"
    Env,
    /// Open a shell in the guest, to look after it
    Shell,
    /// Print versions and builds of everything
    Version {
        /// As JSON, for programs
        #[arg(long)]
        json: bool,
    },
    /// Look for known vulnerabilities in an image
    Scan {
        /// The image
        image: String,
    },
    /// Delete the machine with everything in it: images, containers, volumes
    Delete {
        /// Don't ask
        #[arg(short, long)]
        force: bool,
    },
    /// Run the daemon here (what `start` does in the background; for service managers)
    Daemon {
        /// Don't start the machine at once, but when `coracle start` asks
        #[arg(long)]
        idle: bool,
    },
    /// Print completions for a shell
    #[command(
        after_help = "Example: coracle completions bash > ~/.local/share/bash-completion/completions/coracle"
    )]
    Completions {
        /// bash, zsh, fish, elvish or powershell
        shell: clap_complete::Shell,
    },
}

/// What can be done with the start at login.
#[derive(Subcommand)]
pub enum AutostartAction {
    /// Start at login
    On,
    /// Don't
    Off,
    /// Print on or off
    Status,
}

/// What can be done with settings.
#[derive(Subcommand)]
pub enum SettingsAction {
    /// Print one setting, or all
    Get {
        /// Its name
        key: Option<String>,
    },
    /// Change a setting
    Set {
        /// Its name
        key: String,
        /// Its new value
        value: String,
    },
}

//! What differs between operating systems, behind the same names: the only place with `cfg` of a system, `unsafe`, raw
//! system calls and the spawning of programs.
//!
//! ```text
//!             sockets            rights              programs        start at login
//! unix.rs     unix sockets       modes 0600, 0700    signals         -
//!   linux.rs                                         /proc, KVM      a systemd unit of the user's
//!   macos.rs                                         ps              a launchd agent
//! windows.rs  named pipes        access lists        process handles a file in the Startup folder
//! ```
#![allow(unsafe_code)]

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use linux as system;
#[cfg(target_os = "macos")]
use macos as system;
#[cfg(unix)]
use unix as family;
#[cfg(windows)]
use windows::{self as family, self as system};

pub use family::{
    Listener, SOCKET_PATH, Signals, Socket, alive, bind_private, connect, connect_now, docker_aliases,
    docker_host, end, endpoint, free_mib, has_left, hold, is_of, is_program, link, memory_mib,
    other_processor, private, raise_open_files, replace, reuse_address, spawn_daemon, spawn_detached,
    spawn_noted, unbind, windowless,
};
pub use system::{
    DEFAULT_DRIVER, DRIVERS, HOSTS, LOW_PORTS_ON_ALL_ADDRESSES, PROGRAM_FOLDERS, RESOLV_CONF,
    RESOLVERS_OF_DOMAINS, command_names, default_home, has_rosetta, kvm_works, leave_out_of_backups,
    login_entry, low_ports, mounted_below, power_fails, routes,
};

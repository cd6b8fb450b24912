//! What differs between operating systems, one file each behind the same names; the only place with `unsafe`, raw
//! system calls and the spawning of programs.
#![allow(unsafe_code)]

#[cfg(unix)]
#[path = "sys_unix.rs"]
mod imp;

pub use imp::{
    Listener, Signals, Socket, alive, bind_private, connect, connect_now, end, free_mib, is_program,
    kvm_works, memory_mib, private, spawn_daemon, spawn_detached,
};

//! A shell on a pseudo-terminal, for looking after the guest.

use std::{
    fs::File,
    io,
    os::{fd::AsRawFd, unix::process::CommandExt},
    process::{Command, Stdio},
};

use nix::pty::{Winsize, openpty};

/// Starts the shell; gives the terminal's master end and the shell's pid. [`super::CHILDREN`] must be held until the
/// pid is known to whoever reaps.
pub fn shell(columns: u16, rows: u16) -> io::Result<(File, u32)> {
    let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(Some(&size), None)?;
    let slave = File::from(pty.slave);
    let mut command = Command::new("/bin/sh");
    command
        .arg("-l")
        .env_clear()
        .envs([("PATH", super::PATH), ("HOME", "/root"), ("TERM", "xterm"), ("PS1", "guest:\\w# ")])
        .current_dir("/")
        .stdin(Stdio::from(slave.try_clone()?))
        .stdout(Stdio::from(slave.try_clone()?))
        .stderr(Stdio::from(slave));
    // SAFETY: setsid and ioctl are async-signal-safe, and nothing else is called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            nix::unistd::setsid()?;
            if nix::libc::ioctl(io::stdin().as_raw_fd(), nix::libc::TIOCSCTTY, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    let child = command.spawn()?;
    Ok((File::from(pty.master), child.id()))
}

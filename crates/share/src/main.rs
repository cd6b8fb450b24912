//! `coracle-share`: gives the guest one folder of the host, over vhost-user, as the user who runs it.

#[cfg(target_os = "linux")]
fn main() -> std::process::ExitCode {
    share::main()
}

#[cfg(not(target_os = "linux"))]
fn main() -> std::process::ExitCode {
    eprintln!("coracle-share serves QEMU on Linux; other systems' hypervisors share folders themselves");
    std::process::ExitCode::from(2)
}

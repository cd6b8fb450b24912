//! `coracle-guest`: PID 1 of the guest, and its `/sbin/modprobe`.

fn main() -> std::process::ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    if name.ends_with("modprobe") {
        return guest::modprobe(args);
    }
    match (std::process::id(), args.next().as_deref()) {
        (_, Some("--version")) => {
            println!("coracle-guest {} ({})", guest::RELEASE, guest::BUILD);
            std::process::ExitCode::SUCCESS
        }
        (1, Some(guest::IN_ROOT)) => guest::init(),
        (1, _) => guest::initrd(),
        _ => {
            eprintln!("coracle-guest is the guest's PID 1; there is nothing for it to do here");
            std::process::ExitCode::from(2)
        }
    }
}

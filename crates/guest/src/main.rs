//! `coracle-guest`: PID 1 of the guest, and its `/sbin/modprobe`.

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args();
    let name = args.next().unwrap_or_default();
    if name.ends_with("modprobe") {
        return guest::modprobe(args);
    }
    let args: Vec<String> = args.collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match (std::process::id(), &words[..]) {
        (_, ["--version", ..]) => {
            println!("coracle-guest {} ({})", guest::RELEASE, guest::BUILD);
            ExitCode::SUCCESS
        }
        (1, [guest::IN_ROOT, guest::hosted::ENTER, ..]) => guest::init(Some(&args[2..])),
        (1, [guest::IN_ROOT, ..]) => guest::init(None),
        (1, [guest::hosted::ENTER, root, ..]) => match guest::hosted::enter(root, &args[2..]) {
            Ok(never) => match never {},
            Err(error) => {
                eprintln!("coracle-guest: the guest can't start: {error}");
                ExitCode::FAILURE
            }
        },
        (1, _) => guest::initrd(),
        (_, [word, ..]) => guest::hosted::command(word, &args[1..]).unwrap_or_else(out_of_place),
        _ => out_of_place(),
    }
}

fn out_of_place() -> ExitCode {
    eprintln!("coracle-guest is the guest's PID 1; there is nothing for it to do here");
    ExitCode::from(2)
}

//! `coracle-shim`: see `runtime::shim`.

fn main() -> std::process::ExitCode {
    runtime::shim::main()
}

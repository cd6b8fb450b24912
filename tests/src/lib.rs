//! Coracle end to end: starts the built binaries and drives them with the stock clients.
//!
//! `cargo xtask test` provides what the tests need and names it in the environment:
//! `CORACLE_TEST_BIN` (the staged programs), `CORACLE_TEST_DOCKER`, `CORACLE_TEST_DOCKER_20`,
//! `CORACLE_TEST_DOCKER_26` (stock CLIs), `CORACLE_TEST_REGISTRY` (Debian's docker-registry),
//! `CORACLE_TEST_BUSYBOX` (a static busybox), `CORACLE_TEST_NFT`, `CORACLE_TEST_QEMU`,
//! `CORACLE_TEST_CRUN`, `CORACLE_TEST_RUNC` (other runtimes), `CORACLE_TEST_SKOPEO`, `CORACLE_TEST_PODMAN`, `CORACLE_TEST_BUILDX` (other tools for images),
//! `CORACLE_TEST_PYTHON` (a Python that has docker-py), `CORACLE_TEST_NGINX`, `CORACLE_TEST_REDIS`,
//! `CORACLE_TEST_POSTGRES`, `CORACLE_TEST_MINBASE` (Debian's packages, unpacked), `CORACLE_TEST_COMPOSE` (Debian's
//! docker-compose v2), `CORACLE_TEST_WATCHER`, `CORACLE_TEST_CHOKIDAR` (file watchers), `CORACLE_TEST_NODE`, `CORACLE_TEST_UI`, `CORACLE_TEST_BRIDGE`, `CORACLE_TEST_CHROMIUM`,
//! `CORACLE_TEST_WELCOME`, `CORACLE_TEST_DESKTOP` (the desktop app and what it is driven with).
//!
//! An engine runs in a [`Sandbox`]: network and mount namespaces of its own, so that its bridge, rules and ports
//! are nobody else's, and all of it goes when the sandbox does, also when a test fails.

pub mod building;
pub mod certificates;
pub mod desktop;
pub mod differential;
pub mod engine;
pub mod images;
pub mod machine;
pub mod neighbour;
pub mod notices;
pub mod sandbox;
pub mod store;
pub mod tray;
pub mod walls;

pub use desktop::Desktop;
pub use engine::{Cli, Engine, Outcome};
pub use neighbour::Neighbour;
pub use sandbox::{Registry, Sandbox};

use std::path::PathBuf;

/// A path that xtask named in the environment.
pub fn tool(variable: &str) -> PathBuf {
    match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => panic!("{variable} is not set: run these tests by `cargo xtask test`"),
    }
}

/// The time as `docker events --until` takes it: what happened before it is told.
pub fn seconds_now() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time past 1970");
    format!("{}.{:09}", now.as_secs(), now.subsec_nanos())
}

/// Runs the named parts of a test, functions of something that is dear to make (a machine), in their order: see [`in_order`].
#[macro_export]
macro_rules! in_order {
    ($shared:expr; $($part:ident),+ $(,)?) => {
        $crate::in_order($shared, &[$((stringify!($part), $part as fn(&_))),+])
    };
}

/// A part of a test: its name, and what it does.
pub type Part<'a, T> = (&'a str, fn(&T));

/// Runs the parts of a test, all of them, though one fails: then it says which, and fails. `CORACLE_TEST_PART` has only
/// those run whose names contain it.
pub fn in_order<T>(shared: &T, parts: &[Part<'_, T>]) {
    let wanted = std::env::var("CORACLE_TEST_PART").unwrap_or_default();
    let chosen: Vec<_> = parts.iter().filter(|(name, _)| name.contains(&wanted)).collect();
    assert!(!chosen.is_empty(), "no part's name contains {wanted:?}");
    let mut failed = Vec::new();
    for (name, part) in chosen {
        let started = std::time::Instant::now();
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| part(shared)));
        let word = if done.is_ok() { "ok" } else { "FAILED" };
        // Not by a macro: this is shown as the tests' own names are, whether they fail or not.
        let line = format!("part {name} ... {word}, {:.1} s\n", started.elapsed().as_secs_f32());
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
        if done.is_err() {
            failed.push(*name);
        }
    }
    assert!(failed.is_empty(), "failed (above is why): {}", failed.join(", "));
}

/// How long something that is about to happen is waited for: a disk may be busy with what was built before.
pub const LIMIT: std::time::Duration = std::time::Duration::from_secs(60);

/// Waits until `ready` holds, asking often; for what can only be polled from outside (a socket's appearance).
/// Panics with `what` after [`LIMIT`].
pub fn eventually(what: &str, ready: impl FnMut() -> bool) {
    within(LIMIT, what, ready);
}

/// The same with another limit.
pub fn within(limit: std::time::Duration, what: &str, mut ready: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + limit;
    while !ready() {
        assert!(std::time::Instant::now() < deadline, "{what}: not within {limit:?}");
        pause();
    }
}

// What is watched here belongs to other programs: there is no event to wait for.
#[allow(clippy::disallowed_methods)]
fn pause() {
    std::thread::sleep(std::time::Duration::from_millis(5));
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    type Ran = Mutex<Vec<&'static str>>;

    fn one(ran: &Ran) {
        ran.lock().unwrap().push("one");
    }

    fn two(_: &Ran) {
        panic!("two has a reason");
    }

    fn three(ran: &Ran) {
        ran.lock().unwrap().push("three");
    }

    #[test]
    fn all_parts_of_a_test_run_and_what_failed_is_named() {
        let ran = Ran::default();
        let done =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| in_order!(&ran; one, two, three)));
        let why = *done.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(why, "failed (above is why): two");
        assert_eq!(*ran.lock().unwrap(), ["one", "three"]);
    }
}

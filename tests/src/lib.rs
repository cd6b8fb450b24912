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

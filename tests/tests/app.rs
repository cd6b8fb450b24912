//! The user interface in a real browser, in front of the real daemon and engine (driver `local`): the tests themselves
//! are `ui/e2e/*.test.mjs`.

use tests::{Desktop, Registry};

#[test]
fn the_user_interface_in_a_browser() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let _registry = Registry::start(&desktop.sandbox, desktop.folder());
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "app.test.mjs", &url);
    let done = node.status().expect("node");
    assert!(done.success(), "the tests in the browser failed (above is which)");
}

/// Not a test: `cargo xtask screenshots`.
#[test]
#[ignore = "takes pictures"]
fn screenshots() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let mut node = desktop.script(&[], "screenshots.mjs", &url);
    assert!(node.status().expect("node").success());
}

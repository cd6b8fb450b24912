//! The user interface in a real browser, in front of the real daemon and engine (driver `local`): the tests themselves
//! are `ui/e2e/*.test.mjs`.

use std::time::Instant;

use tests::{
    Cli, Desktop, Engine, Registry,
    desktop::Display,
    eventually,
    notices::Notices,
    tool,
    tray::{Line, TrayHost},
};

#[test]
fn the_user_interface_in_a_browser() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let _registry = Registry::start(&desktop.sandbox, desktop.folder());
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "app.test.mjs", &url);
    let done = node.status().expect("node");
    assert!(done.success(), "the tests in the browser failed (above is which)");
}

#[test]
fn builds_compose_registries_and_files() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let _registry = Registry::start(&desktop.sandbox, desktop.folder());
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "more.test.mjs", &url);
    let done = node.status().expect("node");
    assert!(done.success(), "the tests in the browser failed (above is which)");
}

#[test]
fn what_a_stranger_stumbled_over() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let _registry = Registry::start(&desktop.sandbox, desktop.folder());
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "stranger.test.mjs", &url);
    assert!(node.status().expect("node").success(), "the tests in the browser failed (above is which)");
}

#[test]
fn what_holds_on_every_screen() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "everywhere.test.mjs", &url);
    assert!(node.status().expect("node").success(), "the tests in the browser failed (above is which)");
}

#[test]
fn docker_in_a_terminal_is_led_here_and_back() {
    let mut desktop = Desktop::of_user();
    let config = desktop.path("docker");
    std::fs::create_dir_all(&config).unwrap();
    std::fs::write(config.join("config.json"), r#"{"auths":{"a.example:1":{"auth":"dTpw"}},"psFormat":"x"}"#)
        .unwrap();
    let url = desktop.bridge();
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "context.test.mjs", &url);
    assert!(node.status().expect("node").success(), "the tests in the browser failed (above is which)");
}

#[test]
fn another_engine_is_imported() {
    let other = Engine::with_busybox();
    let mut desktop = Desktop::new();
    let address = format!("unix://{}", other.socket().display());
    let context = desktop.path("docker/contexts/meta/other");
    std::fs::create_dir_all(&context).unwrap();
    let meta =
        format!(r#"{{"Name":"other","Metadata":{{}},"Endpoints":{{"docker":{{"Host":"{address}"}}}}}}"#);
    std::fs::write(context.join("meta.json"), meta).unwrap();
    let url = desktop.bridge();
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "import.test.mjs", &url);
    let done = node.env("CORACLE_OTHER", &address).status().expect("node");
    assert!(done.success(), "the tests in the browser failed (above is which)");
}

#[test]
fn five_tasks_of_a_person() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "tasks.test.mjs", &url);
    assert!(node.status().expect("node").success(), "the tests in the browser failed (above is which)");
}

#[test]
#[ignore = "boots an emulated machine: `cargo xtask test --full` runs it"]
fn the_app_in_front_of_a_machine() {
    let mut desktop = Desktop::in_machine();
    let url = desktop.bridge();
    let mut node = desktop.script(&["--test", "--test-reporter=spec"], "guest.test.mjs", &url);
    assert!(node.status().expect("node").success(), "the tests in the browser failed (above is which)");
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

/// Not a test: a script of `ui/e2e` that CORACLE_SCRIPT names, such as `perf.mjs`, in front of an engine of its own.
#[test]
#[ignore = "runs a script: `cargo xtask test --full` does so with perf.mjs"]
fn script() {
    let mut desktop = Desktop::new();
    let url = desktop.bridge();
    let _registry = Registry::start(&desktop.sandbox, desktop.folder());
    let script = std::env::var("CORACLE_SCRIPT").unwrap_or_else(|_| "perf.mjs".into());
    assert!(desktop.script(&[], &script, &url).status().expect("node").success());
}

/// The real window under a display of the test's own: it is there, has its title, and its page reaches the engine.
#[test]
fn the_window_opens() {
    let desktop = Desktop::new();
    let display = Display::start(&desktop);
    let started = Instant::now();
    let mut window = Some(display.run(&desktop, &tool("CORACLE_TEST_DESKTOP"), &[]));
    let title = display.window(&desktop);
    println!("the window was there after {} ms", started.elapsed().as_millis());
    assert!(title.contains("Coracle"), "{title:?}");
    // Its own first act: it asks the daemon's state and shows a button, focused. Enter starts the engine.
    let coracle = tool("CORACLE_TEST_BIN").join("coracle");
    eventually("the window's button starts the engine", || {
        // Without a window manager nobody gives the window the keyboard.
        display.xdotool(&desktop, &["search", "--onlyvisible", "--name", "^Coracle$", "windowfocus"]);
        display.xdotool(&desktop, &["key", "Return"]);
        let status = desktop.command(&coracle).args(["status", "--json"]).output().expect("coracle");
        String::from_utf8_lossy(&status.stdout).contains(r#""state":"running""#)
    });
    // A second start shows the first one's window and ends.
    let again = display.run(&desktop, &tool("CORACLE_TEST_DESKTOP"), &[]).wait();
    assert!(again.success(), "{again}");
    // An installer's word ends it, and nothing where there is none.
    for _ in 0..2 {
        let quit = display.run(&desktop, &tool("CORACLE_TEST_DESKTOP"), &["--quit"]).wait();
        assert!(quit.success(), "{quit}");
        if let Some(window) = window.take() {
            assert!(window.wait().success());
        }
    }
}

/// What the window costs while nothing happens and 50 containers run: processor time of the app and WebKit's processes.
#[test]
#[ignore = "measures for half a minute: `cargo xtask test --full` runs it"]
fn doing_nothing_costs_nothing() {
    const CONTAINERS: usize = 50;
    const SECONDS: u64 = 20;
    let desktop = Desktop::new();
    let docker = |args: &[&str]| {
        let out = desktop.command(Cli::V28.program()).args(args).output().expect("docker");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    };
    let coracle = tool("CORACLE_TEST_BIN").join("coracle");
    assert!(desktop.command(&coracle).arg("start").status().expect("coracle").success());
    let busybox = tests::images::busybox(desktop.folder());
    docker(&["load", "-q", "-i", &busybox.display().to_string()]);
    for n in 0..CONTAINERS {
        let name = format!("idle{n}");
        docker(&[
            "run",
            "-d",
            "--name",
            &name,
            "--network",
            "none",
            "--stop-timeout",
            "0",
            "busybox",
            "sleep",
            "100000",
        ]);
    }
    let display = Display::start(&desktop);
    let (window, told) = display.run_told(&desktop, &tool("CORACLE_TEST_DESKTOP"), &[]);
    println!("the first list: {}", told.wait("/containers/json?all=true: answered"));
    display.window(&desktop);
    // Its first lists and pictures are not what is measured; nothing tells when it has settled.
    pause(20);
    let before = window.processor_ms();
    pause(SECONDS);
    let (app, web) = window.processor_ms();
    #[allow(clippy::cast_precision_loss)]
    let percent = |ms: u64| ms as f64 / (SECONDS * 10) as f64;
    let (app, web) = (percent(app - before.0), percent(web - before.1));
    println!(
        "idle with {CONTAINERS} containers: app {app:.2} %, WebKit's processes {web:.2} % of a processor"
    );
    println!("resident, kB: {:?}", window.resident_kb());
    assert!(app + web < 0.5, "{app:.2} % and {web:.2} %");
}

// Time itself is what is waited for: it is measured how much of it is used.
#[allow(clippy::disallowed_methods)]
fn pause(seconds: u64) {
    std::thread::sleep(std::time::Duration::from_secs(seconds));
}

/// A link leads to its place, whether it starts the app or finds it running.
#[test]
fn a_link_opens_the_window_at_its_place() {
    let desktop = Desktop::new();
    let docker = |args: &[&str]| {
        let out = desktop.command(Cli::V28.program()).args(args).output().expect("docker");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    let coracle = tool("CORACLE_TEST_BIN").join("coracle");
    assert!(desktop.command(&coracle).arg("start").status().expect("coracle").success());
    let busybox = tests::images::busybox(desktop.folder());
    docker(&["load", "-q", "-i", &busybox.display().to_string()]);
    let [first, second] = ["first", "second"].map(|name| docker(&["create", "--name", name, "busybox"]));
    let display = Display::start(&desktop);
    let program = tool("CORACLE_TEST_DESKTOP");
    // The page reads a container whole when it shows it.
    let (_window, told) = display.run_told(&desktop, &program, &["coracle://containers/first/logs"]);
    told.wait(&format!("/containers/{first}/json: answered"));
    let again = display.run(&desktop, &program, &["coracle://containers/second/inspect"]).wait();
    assert!(again.success(), "{again}");
    told.wait(&format!("/containers/{second}/json: answered"));
}

/// What fails while nobody looks is told by the desktop, once.
#[test]
fn an_engine_that_fails_is_told_of_by_the_desktop() {
    let desktop = Desktop::new();
    std::fs::write(desktop.in_home("engine.json"), "{").unwrap();
    let display = Display::start(&desktop);
    let host = TrayHost::start(display.bus());
    let notices = Notices::start(display.bus());
    let _window = display.run(&desktop, &tool("CORACLE_TEST_DESKTOP"), &["--hidden"]);
    let mut start = None;
    eventually("the tray offers to start the engine", || {
        start = host.menu().into_iter().find(|l| l.text == "Start the engine" && l.enabled);
        start.is_some()
    });
    host.click(&start.expect("it is there"));
    eventually("the failure is told", || !notices.all().is_empty());
    eventually("the tray says so as well", || host.menu().iter().any(|l| l.text.starts_with("Failed: ")));
    let told = notices.all();
    println!("{told:?}");
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].0, "The engine failed");
    assert!(told[0].1.contains("engine.json"), "{told:?}");
}

/// The tray, as a desktop shows it: what its menu says in each state, and what its clicks do.
#[test]
fn the_tray_shows_and_does() {
    let desktop = Desktop::new();
    let display = Display::start(&desktop);
    let host = TrayHost::start(display.bus());
    let (window, told) = display.run_told(&desktop, &tool("CORACLE_TEST_DESKTOP"), &["--hidden"]);
    let line = |text: &str| {
        let mut found: Option<Line> = None;
        eventually(&format!("the tray says {text:?}"), || {
            found = host.menu().into_iter().find(|l| l.text.starts_with(text));
            found.is_some()
        });
        found.expect("it is there")
    };
    let docker = |args: &[&str]| {
        let out = desktop.command(Cli::V28.program()).args(args).output().expect("docker");
        assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8_lossy(&out.stdout).trim().to_owned()
    };
    line("Stopped");
    let visible = || {
        !display
            .xdotool(&desktop, &["search", "--onlyvisible", "--name", "^Coracle$", "getwindowname"])
            .is_empty()
    };
    assert!(!visible(), "it was started for the tray alone");
    host.click(&line("Start the engine"));
    line("Running");
    let busybox = tests::images::busybox(desktop.folder());
    docker(&["load", "-q", "-i", &busybox.display().to_string()]);
    let shown = docker(&["run", "-d", "--name", "shown", "--stop-timeout", "0", "busybox", "sleep", "1000"]);
    let container = line("shown");
    line("Running, 1 container");
    let stop = container.inside.iter().find(|l| l.text == "Stop").expect("a way to stop it");
    host.click(stop);
    eventually("the container is stopped", || docker(&["ps", "-q"]).is_empty());
    eventually("the menu follows", || host.menu().iter().all(|l| l.text != "shown"));
    host.click(&line("Open"));
    eventually("the window is shown", visible);
    docker(&["start", "shown"]);
    // Its log is a place of the page, which reads the container whole when it shows it.
    let logs = line("shown").inside.iter().find(|l| l.text == "Logs").expect("a way to its log").clone();
    host.click(&logs);
    told.wait(&format!("/containers/{shown}/json: answered"));
    let engine = || std::fs::read_to_string(desktop.in_home("run/engine/engine.pid")).unwrap_or_default();
    let before = engine();
    host.click(&line("Restart the engine"));
    eventually("another engine runs", || !engine().is_empty() && engine() != before);
    line("Running");
    host.click(&line("Stop the engine"));
    line("Stopped");
    host.click(&line("Start the engine"));
    line("Running");
    docker(&["start", "shown"]);
    host.click(&line("Quit"));
    assert!(window.wait().success(), "the app ends");
    assert_eq!(docker(&["ps", "--format", "{{.Names}}"]), "shown", "and containers go on");
}

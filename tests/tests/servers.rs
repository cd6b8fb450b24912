//! Debian's own servers in containers, as people run them: a published port, data in a named volume.

use std::process::Stdio;

use tests::{Engine, Outcome, eventually, images};

/// What redis answers to commands of its protocol (RESP), written and read as they are on the wire.
fn redis(engine: &Engine, commands: &str) -> String {
    // curl speaks telnet: bytes as they are, in the network namespace of the engine.
    let mut curl = engine.sandbox.command("curl");
    curl.args(["-s", "--max-time", "10", "telnet://127.0.0.1:6379"]).stderr(Stdio::null());
    tests::engine::with_input(curl, format!("{commands}QUIT\r\n").as_bytes()).out
}

#[test]
fn redis_keeps_its_data_in_a_volume() {
    let engine = Engine::start();
    engine.load(images::redis);
    let start = || {
        engine.docker(&["run", "-d", "--name", "redis", "-p", "6379:6379", "-v", "kept:/data", "redis"]).ok();
        eventually("redis answers", || redis(&engine, "PING\r\n").starts_with("+PONG\r\n"));
    };
    start();
    assert_eq!(redis(&engine, "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\nvalue\r\n"), "+OK\r\n+OK\r\n");
    // Not as root, and its folder is its own: the volume took the owner from the image.
    assert_eq!(engine.docker(&["exec", "redis", "redis-cli", "GET", "key"]).ok(), "value");
    assert_eq!(engine.docker(&["inspect", "-f", "{{.Config.User}}", "redis"]).ok(), "redis");
    engine.docker(&["rm", "-f", "redis"]).ok();
    start();
    assert_eq!(redis(&engine, "GET key\r\n"), "$5\r\nvalue\r\n+OK\r\n");
}

#[test]
fn postgres_comes_back_with_its_tables() {
    let engine = Engine::start();
    engine.load(images::postgres);
    let sql =
        |text: &str| -> Outcome { engine.docker(&["exec", "db", "psql", "-U", "postgres", "-Atc", text]) };
    // Not before the server itself listens: initdb's own runs have no socket.
    let ready = || eventually("postgres answers", || sql("select 1").out == "1\n");
    engine.docker(&["run", "-d", "--name", "db", "-v", "db:/var/lib/postgresql/data", "postgres"]).ok();
    ready();
    sql("create table fruit (name text primary key, pieces int)").ok();
    sql("insert into fruit values ('apple', 3), ('pear', 4)").ok();
    engine.docker(&["restart", "db"]).ok();
    ready();
    assert_eq!(sql("select sum(pieces) from fruit").ok(), "7");
    sql("insert into fruit values ('apple', 5)").fails(1, "duplicate key value violates unique constraint");

    // Killed, and its container gone: the volume has all that was committed.
    engine.docker(&["rm", "-f", "db"]).ok();
    engine.docker(&["run", "-d", "--name", "db", "-v", "db:/var/lib/postgresql/data", "postgres"]).ok();
    ready();
    assert_eq!(sql("select name from fruit order by name").ok(), "apple\npear");
    engine.docker(&["stop", "db"]).ok();
    assert_eq!(engine.docker(&["inspect", "-f", "{{.State.ExitCode}}", "db"]).ok(), "0", "it stops in order");
}

#[test]
fn debians_smallest_installation_runs() {
    let engine = Engine::start();
    engine.load(images::minbase);
    let run = |args: &[&str]| engine.docker(&[&["run", "--rm", "debian"], args].concat());
    assert_eq!(run(&["sh", "-c", "echo $((6 * 7)); id -un"]).ok(), "42\nroot");
    assert_eq!(run(&["id", "daemon"]).ok(), "uid=1(daemon) gid=1(daemon) groups=1(daemon)");
    let listed = run(&["ls", "-l", "/usr/bin/bash", "/etc/passwd"]).ok();
    assert!(listed.starts_with("-rw-r--r-- 1 root root") && listed.contains("/usr/bin/bash"), "{listed}");
    assert!(run(&["apt-get", "--version"]).ok().starts_with("apt "));
    assert_eq!(engine.docker(&["run", "--rm", "-u", "nobody", "debian", "id", "-un"]).ok(), "nobody");
    assert_eq!(
        engine.docker_with_input(&["run", "--rm", "-i", "debian"], b"cd /tmp && touch x && ls\n").ok(),
        "x"
    );
}

//! Debian's docker-compose drives an application: web, redis, postgres; on bare Linux, and in the guest (`--full`: a
//! database is made slowly by an emulated processor).

use std::path::Path;
use std::process::Command;

use tests::{Engine, Outcome, eventually, images, machine::Machine};

const APPLICATION: &str = r#"
name: shop
services:
  web:
    image: web
    depends_on:
      redis: { condition: service_healthy }
      db: { condition: service_healthy }
    networks: [front, back]
    ports: ["8080-8089:80"]
    environment: { COLOUR: red }
    volumes: ["./pages:/www:ro", "cache:/cache"]
    healthcheck: { test: ["CMD", "wget", "-qO-", "http://127.0.0.1/"], interval: 1s, retries: 30 }
  redis:
    image: redis
    networks: [back]
    volumes: ["redis:/data"]
    healthcheck: { test: ["CMD", "redis-cli", "ping"], interval: 1s, retries: 30 }
  db:
    image: postgres
    networks: { back: { aliases: [database] } }
    volumes: ["db:/var/lib/postgresql/data"]
    healthcheck: { test: ["CMD", "psql", "-U", "postgres", "-Atc", "select 1"], interval: 1s, retries: 60 }
networks:
  front: {}
  back: { internal: true, labels: { purpose: data } }
volumes: { cache: {}, redis: {}, db: {} }
"#;

/// Where the application runs.
trait Place {
    /// docker-compose with this place's engine.
    fn compose(&self) -> Command;
    fn docker(&self, args: &[&str]) -> Outcome;
    /// A page that is published on the host.
    fn page(&self, url: &str) -> Outcome;
}

impl Place for Engine {
    fn compose(&self) -> Command {
        let mut command = self.sandbox.command("timeout");
        command
            .arg("200")
            .arg(tests::tool("CORACLE_TEST_COMPOSE"))
            .env("DOCKER_HOST", format!("unix://{}", self.socket().display()))
            .env("DOCKER_CONFIG", self.path("docker-config"));
        command
    }
    fn docker(&self, args: &[&str]) -> Outcome {
        Engine::docker(self, args)
    }
    fn page(&self, url: &str) -> Outcome {
        self.curl(&[url])
    }
}

impl Place for Machine {
    fn compose(&self) -> Command {
        self.run_as_user(&tests::tool("CORACLE_TEST_COMPOSE"))
    }
    fn docker(&self, args: &[&str]) -> Outcome {
        Machine::docker(self, args)
    }
    fn page(&self, url: &str) -> Outcome {
        self.curl(url)
    }
}

struct Compose<'a> {
    place: &'a dyn Place,
    folder: std::path::PathBuf,
}

impl Compose<'_> {
    fn run(&self, args: &[&str]) -> Outcome {
        let mut command = self.place.compose();
        command.arg("-f").arg(self.folder.join("compose.yaml")).args(args).stdin(std::process::Stdio::null());
        command.output().expect("docker-compose").into()
    }

    /// The containers of a service, in the order of their numbers.
    fn containers(&self, service: &str) -> Vec<String> {
        let mut ids: Vec<String> = self.run(&["ps", "-q", service]).ok().lines().map(str::to_owned).collect();
        ids.sort();
        ids
    }
}

fn application(place: &dyn Place, folder: std::path::PathBuf) -> Compose<'_> {
    std::fs::create_dir_all(folder.join("pages")).unwrap();
    std::fs::write(folder.join("compose.yaml"), APPLICATION).unwrap();
    std::fs::write(folder.join("pages/index.html"), "from the shop\n").unwrap();
    Compose { place, folder }
}

fn write(path: &Path, from: &str, to: &str) {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.contains(from));
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn an_application_of_three_services() {
    let engine = Engine::start();
    for image in [images::web, images::redis, images::postgres] {
        engine.load(image);
    }
    shop_opens_and_closes(&application(&engine, engine.path("shop")));
}

#[test]
fn the_same_application_in_the_guest() {
    if std::env::var_os("CORACLE_TEST_FULL").is_none() {
        return;
    }
    let machine = Machine::start("shop");
    let folder = tempfile::tempdir().unwrap();
    for image in [images::web, images::redis, images::postgres] {
        machine.load(&image(folder.path()));
    }
    shop_opens_and_closes(&application(&machine, machine.path("shop")));
}

fn shop_opens_and_closes(shop: &Compose<'_>) {
    let docker = |args: &[&str]| shop.place.docker(args);
    shop.run(&["up", "-d", "--scale", "web=3"]).ok();
    let states = shop.run(&["ps", "--format", "{{.Service}} {{.State}}"]).ok();
    assert_eq!(states.lines().filter(|l| l.ends_with(" running")).count(), 5, "{states}");

    // Three of one service: a port each, and each found by the service's name.
    for port in 8080..8083 {
        assert_eq!(shop.place.page(&format!("http://127.0.0.1:{port}/")).ok(), "from the shop");
    }
    let found = shop.run(&["exec", "-T", "redis", "sh", "-c", "getent ahostsv4 web | sort -u | wc -l"]);
    if found.code == Some(0) {
        assert!(found.out.trim().parse::<u32>().unwrap() >= 3, "{}", found.out);
    }
    let names = shop.run(&["exec", "-T", "web", "nslookup", "web"]).ok();
    assert!(names.matches("Name:").count() >= 3, "{names}");
    shop.run(&["exec", "-T", "web", "nslookup", "database"]).ok();
    // What one service keeps another finds.
    let sql = |text: &str| shop.run(&["exec", "-T", "db", "psql", "-U", "postgres", "-Atc", text]).ok();
    sql("create table orders (id int)");
    shop.run(&["exec", "-T", "redis", "redis-cli", "set", "visits", "7"]).ok();
    assert_eq!(shop.run(&["exec", "-T", "--index", "2", "web", "sh", "-c", "echo $COLOUR"]).ok(), "red");
    shop.run(&["exec", "-T", "--index", "1", "web", "touch", "/cache/kept"]).ok();
    shop.run(&["exec", "-T", "--index", "3", "web", "ls", "/cache/kept"]).ok();
    eventually("they are healthy", || {
        let health = shop.run(&["ps", "--format", "{{.Health}}"]).out;
        health.lines().filter(|l| *l == "healthy").count() == 5
    });
    let logs = shop.run(&["logs", "--no-color", "redis"]).ok();
    assert!(
        logs.contains("redis-1  |") && logs.to_lowercase().contains("ready to accept connections"),
        "{logs}"
    );
    let networks = docker(&["network", "ls", "-q", "--filter", "label=com.docker.compose.project=shop"]);
    assert_eq!(networks.ok().lines().count(), 2);
    let internal = docker(&["network", "inspect", "-f", "{{.Internal}} {{.Labels.purpose}}", "shop_back"]);
    assert_eq!(internal.ok(), "true data");

    // Up again: nothing is made anew.
    let before = (shop.containers("web"), shop.containers("db"), shop.containers("redis"));
    shop.run(&["up", "-d", "--scale", "web=3"]).ok();
    assert_eq!((shop.containers("web"), shop.containers("db"), shop.containers("redis")), before);
    // One service changed: it alone is.
    write(&shop.folder.join("compose.yaml"), "COLOUR: red", "COLOUR: blue");
    shop.run(&["up", "-d", "--scale", "web=1"]).ok();
    assert_eq!(shop.run(&["exec", "-T", "web", "sh", "-c", "echo $COLOUR"]).ok(), "blue");
    assert_eq!((shop.containers("db"), shop.containers("redis")), (before.1, before.2));
    assert_eq!(shop.containers("web").len(), 1);

    shop.run(&["restart", "redis"]).ok();
    eventually("redis has its data again", || {
        shop.run(&["exec", "-T", "redis", "redis-cli", "get", "visits"]).out.trim() == "7"
    });
    shop.run(&["stop"]).ok();
    assert_eq!(shop.run(&["ps", "-q"]).ok(), "");
    shop.run(&["start"]).ok();
    // Down keeps what is in volumes; down -v does not.
    shop.run(&["down"]).ok();
    assert_eq!(docker(&["ps", "-aq"]).ok(), "");
    assert_eq!(docker(&["volume", "ls", "-q"]).ok(), "shop_cache\nshop_db\nshop_redis");
    shop.run(&["up", "-d"]).ok();
    assert_eq!(sql("select count(*) from orders"), "0");
    shop.run(&["down", "-v"]).ok();
    assert_eq!(docker(&["volume", "ls", "-q"]).ok(), "");
    let left = docker(&["network", "ls", "--format", "{{.Name}}"]).ok();
    assert_eq!(left, "bridge\nhost\nnone");
}

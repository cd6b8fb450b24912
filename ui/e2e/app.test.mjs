// The user interface against the real daemon and engine. One story, in order: what one test makes, later ones use.
import assert from "node:assert/strict";
import { readFile, writeFile } from "node:fs/promises";
import http from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { accessible, coracle, docker, dockerInBackground, eventually, load, need, open, row, section, tab, url } from "./lib.mjs";

let browser;
let page;
let errors;

before(async () => {
  // What WebKit says its language is where nobody chose one; charts, numbers and times are there all the same.
  ({ browser, page, errors } = await open({ language: "C" }));
});
after(async () => {
  await browser?.close();
});

const button = (name) => page.getByRole("button", { name, exact: true });
const status = (text) => page.getByRole("status").filter({ hasText: text });

test("the engine is started by the first click", async () => {
  await page.getByText("The engine is stopped").waitFor();
  await accessible(page, "engine stopped");
  await button("Start the engine").click();
  await page.getByText("Welcome aboard").waitFor();
  assert.equal(JSON.parse(await coracle("status", "--json")).state, "running");
});

test("the second click runs a container and opens its page", async () => {
  // In a machine the image is there from its first boot; here it comes while the window is open.
  await load(need("CORACLE_WELCOME"));
  const popup = page.waitForEvent("popup");
  await button("Run the first container").click();
  const opened = await popup;
  await opened.getByText("This page comes from a container").waitFor();
  await opened.close();
  await row(page, "welcome").waitFor();
  await page.getByRole("region", { name: "Container welcome" }).getByText("running", { exact: true }).waitFor();
});

test("lists follow what others do", async () => {
  await load(need("CORACLE_BUSYBOX"));
  await docker("run", "-d", "--name", "other", "busybox", "sleep", "1000");
  await row(page, "other").getByText("running").waitFor();
  await docker("stop", "-t", "0", "other");
  await row(page, "other").getByText("stopped").waitFor();
  await docker("rm", "other");
  await row(page, "other").waitFor({ state: "detached" });
});

test("start, pause, stop, restart, kill and remove", async () => {
  await docker("create", "--name", "acts", "--stop-timeout", "0", "busybox", "sleep", "1000");
  await row(page, "acts").click();
  const detail = page.getByRole("region", { name: "Container acts" });
  const state = async () => JSON.parse(await docker("inspect", "-f", "{{json .State.Status}}", "acts"));
  const click = (name) => detail.getByRole("button", { name, exact: true }).click();
  const shows = (word) => detail.getByText(word, { exact: true }).first().waitFor();
  await shows("never started");
  await click("Start");
  await shows("running");
  await click("Pause");
  await shows("paused");
  assert.equal(await state(), "paused");
  await click("Resume");
  await shows("running");
  await click("Stop");
  await shows("stopped");
  assert.equal(await state(), "exited");
  await row(page, "acts").focus();
  await page.keyboard.press("s");
  await shows("running");
  const before = await docker("inspect", "-f", "{{.State.StartedAt}}", "acts");
  await click("Restart");
  await eventually("it was started again", async () => (await docker("inspect", "-f", "{{.State.StartedAt}} {{.State.Running}}", "acts")).endsWith("true") && (await docker("inspect", "-f", "{{.State.StartedAt}}", "acts")) !== before);
  await click("More actions");
  await page.getByRole("menuitem", { name: "Kill" }).click();
  await shows("stopped");
  await click("Remove");
  await accessible(page, "confirmation");
  await page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }).click();
  await row(page, "acts").waitFor({ state: "detached" });
});

test("what fails is said in the engine's words and stays until it is read", async () => {
  await docker("create", "--name", "broken", "busybox", "no-such-program");
  await row(page, "broken").click();
  await page.getByRole("region", { name: "Container broken" }).getByRole("button", { name: "Start", exact: true }).click();
  await status("broken could not be started").getByText(/executable file not found in \$PATH/).first().waitFor();
  await accessible(page, "an error");
  await button("Dismiss").first().click();
  await docker("rm", "broken");
});

test("compose projects are groups that start and stop as one", async () => {
  for (const [name, service] of [["shop-web-1", "web"], ["shop-db-1", "db"]]) {
    await docker("run", "-d", "--name", name, "--stop-timeout", "0", "--label", "com.docker.compose.project=shop", "--label", `com.docker.compose.service=${service}`, "busybox", "sleep", "1000");
  }
  await row(page, "shop-db-1").waitFor();
  await page.getByText("2/2").waitFor();
  await button("Stop all of shop").click();
  await page.getByText("0/2").waitFor();
  await accessible(page, "containers");
  await docker("rm", "-f", "shop-web-1", "shop-db-1");
});

test("the run dialog refuses what is wrong in place, and sends nothing", async () => {
  let sent = 0;
  const count = (request) => (sent += request.url().includes("/containers/create") ? 1 : 0);
  page.on("request", count);
  await page.locator("body").press("n");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await dialog.getByLabel("Image").fill("busybox");
  await dialog.getByLabel("Name", { exact: true }).fill("-bad");
  await dialog.getByText(/the first a letter or digit/).waitFor();
  await dialog.getByLabel("Command", { exact: true }).fill("sh -c 'unclosed");
  await dialog.getByText(/not closed/).waitFor();
  await dialog.getByRole("button", { name: "Port", exact: true }).click();
  await dialog.getByLabel("Port in the container").fill("99999");
  await dialog.getByRole("button", { name: "Run", exact: true }).click();
  await dialog.getByText(/number from 1 to 65535/).waitFor();
  await accessible(page, "run dialog");
  assert.equal(sent, 0);
  page.off("request", count);
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
});

test("the run dialog knows what is typed now, not what was typed before", async () => {
  // A slow engine answers about the first name after it has answered about the second.
  let go;
  const held = new Promise((resolve) => (go = resolve));
  const slow = (at) => at.href.includes("nowhere");
  await page.route(slow, async (route) => {
    await held;
    await route.continue();
  });
  await page.locator("body").press("n");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  const asked = page.waitForRequest((request) => request.url().includes("nowhere"));
  await dialog.getByLabel("Image").fill("busybox:nowhere");
  await asked;
  const right = page.waitForResponse((response) => response.url().includes("/images/busybox/json"));
  await dialog.getByLabel("Image").fill("busybox");
  assert.equal((await right).status(), 200);
  const late = page.waitForResponse((response) => response.url().includes("nowhere"));
  go();
  assert.equal((await late).status(), 404);
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  assert.equal(await dialog.getByText("Not on this computer: it is pulled first.").count(), 0);
  await dialog.getByRole("button", { name: "Run", exact: true }).waitFor();
  await page.unroute(slow);
  // What was typed is not thrown away by a click beside the dialog.
  await page.mouse.click(5, 5);
  await dialog.waitFor();
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
});

test("a dialog asked for just after another ended is there", async () => {
  await page.locator("body").press("n");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await dialog.waitFor();
  // Before the browser tells that the first has ended, which it does in a task of its own.
  await page.evaluate(async () => {
    document.querySelector("dialog[open] button[aria-label=Close]").click();
    for (let n = 0; n < 10; n++) await null;
    document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "n", bubbles: true }));
    await new Promise((resolve) => setTimeout(resolve));
  });
  await page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));
  assert.equal(await dialog.count(), 1);
  await page.keyboard.press("Escape");
  await dialog.waitFor({ state: "detached" });
});

test("run: a form filled from the image, its line, and the container it makes", async () => {
  await page.locator("body").press("n");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await dialog.getByLabel("Image").fill("coracle/welcome");
  await eventually("the image's port is in the form", async () => (await dialog.getByLabel("Port in the container").inputValue().catch(() => "")) === "80");
  await dialog.getByLabel("Name", { exact: true }).fill("formed");
  await dialog.getByRole("button", { name: "Variable", exact: true }).click();
  await dialog.getByLabel("Name of the variable").fill("GREETING");
  await dialog.getByLabel("Value of the variable").fill("it's me");
  await dialog.getByLabel("Port on this computer").fill("18099");
  await dialog.getByText(String.raw`docker run -d --name formed -p 18099:80 -e 'GREETING=it'\''s me' coracle/welcome`).waitFor();
  await dialog.getByRole("button", { name: "Run", exact: true }).click();
  await row(page, "formed").waitFor();
  const made = JSON.parse(await docker("inspect", "formed"))[0];
  assert.ok(made.Config.Env.includes("GREETING=it's me"));
  assert.equal(made.HostConfig.PortBindings["80/tcp"][0].HostPort, "18099");
  const answer = await eventually("its page answers", () => fetch("http://127.0.0.1:18099/").catch(() => undefined));
  assert.match(await answer.text(), /This page comes from a container/);
  // A name that is taken is known before it is sent.
  await page.locator("body").press("n");
  await dialog.getByLabel("Name", { exact: true }).fill("formed");
  await dialog.getByText("A container has this name already").waitFor();
  await page.keyboard.press("Escape");
  await docker("rm", "-f", "formed");
});

test("logs: many lines at once, searched whole", async () => {
  const LINES = 200_000;
  await docker("run", "--name", "talker", "busybox", "sh", "-c", `seq ${LINES}; echo needle in the hay >&2`);
  await row(page, "talker").click();
  await tab(page, "Logs");
  const began = Date.now();
  await page.getByText(`${(LINES + 1).toLocaleString("en-GB")} lines`).waitFor({ timeout: 60_000 });
  console.log(`${LINES} lines were there after ${Date.now() - began} ms`);
  await page.getByRole("log").getByText("needle in the hay").waitFor();
  const rows = await page.locator(".log .line").count();
  assert.ok(rows < 200, `${rows} lines in the page: only those that are seen belong there`);
  const asked = Date.now();
  await page.getByLabel("Search the log").fill("99999");
  await page.getByText("1 of 2", { exact: true }).waitFor();
  console.log(`searched after ${Date.now() - asked} ms, typing's pause included`);
  await page.locator(".line.current").getByText("199999").waitFor();
  await page.getByRole("button", { name: "Earlier" }).click();
  await page.locator(".line.current").getByText("99999", { exact: true }).waitFor();
  await page.getByLabel("Regex").check();
  await page.getByLabel("Search the log").fill("(");
  await page.getByText(/unclosed group/).waitFor();
  await accessible(page, "logs");
  await page.getByLabel("Regex").uncheck();
  await page.getByLabel("Search the log").fill("");
  const download = page.waitForEvent("download");
  await button("Download the log").click();
  const text = await readFile(await (await download).path(), "utf8");
  assert.equal(text.split("\n").length, LINES + 2);
  await docker("rm", "-f", "talker");
});

test("logs follow what is written", async () => {
  await docker("run", "-d", "-i", "--name", "echoes", "busybox", "sh", "-c", "echo first; read x; echo second");
  await row(page, "echoes").click();
  await tab(page, "Logs");
  await page.getByRole("log").getByText("first").waitFor();
  const attach = dockerInBackground("attach", "echoes");
  attach.kill();
  await docker("exec", "echoes", "sh", "-c", "echo third > /proc/1/fd/1");
  await page.getByRole("log").getByText("third").waitFor();
  await docker("rm", "-f", "echoes");
});

test("a terminal: what is typed, its size", async () => {
  await docker("run", "-d", "--name", "box", "--stop-timeout", "0", "busybox", "sleep", "10000");
  await row(page, "box").click();
  await tab(page, "Terminal");
  const screen = page.locator(".xterm-accessibility");
  await screen.getByText("#").first().waitFor();
  await page.keyboard.type("echo $((6*7))x; stty size\n");
  await screen.getByText("42x").first().waitFor();
  const size = await eventually("stty answers", async () => /^(\d+) (\d+)$/m.exec(await page.locator(".xterm-accessibility-tree").innerText()));
  assert.ok(Number(size[1]) > 20 && Number(size[2]) > 60, size[0]);
  await page.setViewportSize({ width: 1000, height: 620 });
  await eventually("the shell knows its new size", async () => {
    await page.keyboard.type("stty size\n");
    const all = [...(await page.locator(".xterm-accessibility-tree").innerText()).matchAll(/^(\d+) (\d+)$/gm)];
    return all.length > 1 && Number(all.at(-1)[1]) < Number(size[1]);
  });
  await page.setViewportSize({ width: 1280, height: 800 });
  await accessible(page, "terminal");
  await page.keyboard.type("exit\n");
  await page.getByText("The shell has ended.").waitFor();
  await page.getByLabel("Shell").selectOption("zsh");
  await page.getByText("This shell is not in the container").waitFor();
});

test("files: browse, look, download, upload", async () => {
  await docker("exec", "box", "sh", "-c", "mkdir /www; echo '<b>hello</b>' > /www/page.html; ln -s /etc /www/link");
  await tab(page, "Files");
  await button("www drwxr-xr-x").click();
  await page.getByRole("button", { name: /^page.html/ }).click();
  const preview = page.getByRole("region", { name: "Preview of page.html" });
  await preview.getByText("<b>hello</b>").waitFor();
  assert.equal(await preview.locator("b").count(), 0);
  const download = page.waitForEvent("download");
  await button("Download page.html").click();
  assert.equal(await readFile(await (await download).path(), "utf8"), "<b>hello</b>\n");
  const file = join(tmpdir(), `up-${process.pid}.txt`);
  await writeFile(file, "from outside");
  await page.getByLabel("Files to upload").setInputFiles(file);
  await page.getByRole("button", { name: /^up-/ }).waitFor();
  assert.equal(await docker("exec", "box", "cat", `/www/up-${process.pid}.txt`), "from outside");
  await accessible(page, "files");
});

test("stats: charts and processes", async () => {
  await tab(page, "Stats");
  await page.getByRole("figure", { name: /^Memory: (.* of |not measured)/ }).waitFor();
  await page.getByRole("cell", { name: "sleep 10000" }).waitFor();
  await page.locator(".uplot canvas").first().waitFor();
  await accessible(page, "stats");
  await tab(page, "Inspect");
  await page.getByText('"Name": "/box"').waitFor();
  await accessible(page, "inspect");
  await tab(page, "Overview");
  await accessible(page, "overview");
});

test("nothing that comes from a container becomes markup or a command", async () => {
  const evil = `<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>`;
  await docker("run", "-d", "--name", "evil", "--stop-timeout", "0", "--label", `evil=${evil}`, "-e", `EVIL=${evil}`, "busybox", "sh", "-c", `echo '${evil}'; printf '\\033]0;%s\\007\\033[31mred\\033[0m\\n' x; touch '/tmp/${evil.replaceAll("/", "|")}'; exec sleep 1000`);
  await docker("volume", "create", "--label", `x=${evil}`, "evilvolume");
  await row(page, "evil").click();
  await page.getByText("Labels", { exact: false }).last().click();
  await page.getByRole("cell", { name: evil }).first().waitFor();
  await tab(page, "Logs");
  await page.getByRole("log").getByText(evil).waitFor();
  await page.getByRole("log").getByText("red", { exact: true }).waitFor();
  await page.getByLabel("Search the log").fill("<img");
  await page.locator("mark").getByText("<img").first().waitFor();
  await page.getByLabel("Search the log").fill("");
  await tab(page, "Inspect");
  await page.getByText("onerror").first().waitFor();
  await tab(page, "Files");
  await page.getByRole("button", { name: /^tmp / }).click();
  await page.getByRole("button", { name: /onerror/ }).first().waitFor();
  await tab(page, "Overview");
  await button("More actions").click();
  await page.getByRole("menuitem", { name: "Copy the run command" }).click();
  await page.getByText("Command copied").waitFor();
  assert.match(await page.evaluate(() => navigator.clipboard.readText()), /'EVIL=<img src=x onerror="window\.hacked=1"/);
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  assert.equal(await page.locator("img[src=x]").count(), 0);
  await docker("rm", "-f", "evil");
  await docker("volume", "rm", "evilvolume");
});

test("images: pull with progress, name, remove; what can't be pulled says why", async () => {
  await docker("tag", "busybox", "127.0.0.1:5000/team/app:1");
  await docker("push", "-q", "127.0.0.1:5000/team/app:1");
  await docker("rmi", "127.0.0.1:5000/team/app:1");
  await section(page, "Images");
  await button("Pull").click();
  const dialog = page.getByRole("dialog", { name: "Pull an image" });
  await dialog.getByLabel("Image").fill("not a name");
  await dialog.getByText(/An image’s name, such as/).waitFor();
  await dialog.getByLabel("Image").fill("127.0.0.1:5000/team/nothing");
  await dialog.getByRole("button", { name: "Pull", exact: true }).click();
  await dialog.getByRole("alert").filter({ hasText: /not found|unknown/ }).waitFor();
  await accessible(page, "pull dialog");
  await dialog.getByLabel("Image").fill("127.0.0.1:5000/team/app:1");
  await dialog.getByRole("button", { name: "Try again" }).click();
  await page.getByText("127.0.0.1:5000/team/app:1 pulled").waitFor();
  await dialog.waitFor({ state: "detached" });
  await row(page, "busybox:latest").or(row(page, "127.0.0.1:5000/team/app:1")).first().click();
  await accessible(page, "images");
  await page.getByRole("region", { name: /^Image / }).getByRole("button", { name: "More actions" }).click();
  await page.getByRole("menuitem", { name: "Give it a name…" }).click();
  await page.getByLabel("Name and tag").fill("mine:2");
  await button("Add the name").click();
  await eventually("the name is there", async () => (await docker("images", "-q", "mine:2")) !== "");
  await tab(page, "Layers");
  await accessible(page, "layers");
  await tab(page, "Overview");
  await docker("rmi", "mine:2", "127.0.0.1:5000/team/app:1");
});

test("an image that is not here is pulled and run as it says itself: its port is published", async () => {
  await docker("tag", "coracle/welcome", "127.0.0.1:5000/team/page:1");
  await docker("push", "-q", "127.0.0.1:5000/team/page:1");
  await docker("rmi", "127.0.0.1:5000/team/page:1");
  await section(page, "Containers");
  await page.locator("body").press("n");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await dialog.getByLabel("Image").fill("127.0.0.1:5000/team/page:1");
  await dialog.getByText("Not on this computer: it is pulled first.").waitFor();
  await dialog.getByRole("button", { name: "Pull and run" }).click();
  const detail = page.getByRole("region", { name: /^Container / });
  await detail.getByRole("button", { name: /^http:\/\/localhost:\d+\/$/ }).waitFor();
  const id = await docker("ps", "-lq");
  assert.match(await docker("port", id), /80\/tcp -> /);
  await docker("rm", "-f", id);
  await docker("rmi", "127.0.0.1:5000/team/page:1");
});

test("volumes and networks are made and removed", async () => {
  await section(page, "Volumes");
  await docker("volume", "create", "first");
  await row(page, "first").waitFor();
  await button("New").click();
  await page.getByLabel("Name").fill("first");
  await page.getByText("A volume has this name already").waitFor();
  await page.getByLabel("Name").fill("second");
  await button("Make it").click();
  await page.getByRole("region", { name: "Volume second" }).waitFor();
  await accessible(page, "volumes");
  await button("Remove").click();
  await button("Remove the volume").click();
  await row(page, "second").waitFor({ state: "detached" });
  assert.equal(await docker("volume", "ls", "-q"), "first");
  await section(page, "Networks");
  await button("New").click();
  await page.getByLabel("Name").fill("backend");
  await button("Make it").click();
  await page.getByRole("region", { name: "Network backend" }).waitFor();
  await accessible(page, "networks");
  await docker("network", "rm", "backend");
  await row(page, "backend").waitFor({ state: "detached" });
  // Nothing is selected: who is connected is drawn.
  await docker("run", "-d", "--name", "drawn", "busybox", "sleep", "1000");
  const map = page.getByRole("region", { name: "Map of networks" });
  await map.getByRole("button", { name: "drawn" }).waitFor();
  await map.getByRole("button", { name: /^bridge/ }).waitFor();
  await accessible(page, "map of networks");
  await docker("rm", "-f", "drawn");
  await map.getByRole("button", { name: "drawn" }).waitFor({ state: "detached" });
});

test("the keyboard goes everywhere", async () => {
  await page.locator("body").press("1");
  await page.getByRole("region", { name: "Containers", exact: true }).waitFor();
  await page.keyboard.press("f");
  await page.keyboard.type("nothing-like-this");
  await page.getByText("Nothing matches").waitFor();
  await accessible(page, "nothing matches");
  await button("Clear the filter").click();
  await page.getByRole("row").first().focus();
  await row(page, "welcome").focus();
  await page.keyboard.press("ArrowUp");
  await page.keyboard.press("Control+k");
  await accessible(page, "palette");
  await page.keyboard.type("welcome logs");
  await page.keyboard.press("Enter");
  await page.getByRole("log", { name: "Log of welcome" }).waitFor();
  await page.locator("body").press(",");
  await page.getByRole("region", { name: "Settings", exact: true }).waitFor();
});

test("settings, in both themes", async () => {
  await page.getByLabel("Dark").check();
  assert.equal(await page.evaluate(() => getComputedStyle(document.documentElement).colorScheme), "dark");
  await accessible(page, "settings, dark");
  for (const name of ["Containers", "Images", "Volumes", "Networks"]) {
    await section(page, name);
    await accessible(page, `${name}, dark`);
  }
  await section(page, "Settings");
  await page.getByLabel("As the system").check();
  await button("Daemon’s log").click();
  await page.getByLabel("The daemon’s log").getByText("serving").first().waitFor();
});

test("proxies are checked in place and kept", async () => {
  const proxies = page.getByRole("region", { name: "Proxies" });
  const field = proxies.getByLabel("HTTPS");
  const keep = proxies.getByRole("button", { name: "Save" });
  await field.fill("proxy:3128");
  await proxies.getByText(/A URL, such as/).waitFor();
  assert.ok(await keep.isDisabled());
  for (const value of ["http://proxy.example.com:3128", ""]) {
    await field.fill(value);
    await keep.click();
    await proxies.getByText("Acts after a restart.").waitFor();
    await eventually("kept", () => keep.isDisabled());
    await section(page, "Containers");
    await section(page, "Settings");
    await eventually("shown", async () => (await field.inputValue()) === value);
  }
});

test("a narrow window shows one pane, 200 % zoom loses nothing", async () => {
  await section(page, "Containers");
  await page.setViewportSize({ width: 640, height: 400 });
  await button("Back").click();
  await row(page, "welcome").click();
  await page.getByRole("region", { name: "Container welcome" }).waitFor();
  assert.equal(await row(page, "welcome").count(), 0);
  await button("Back").click();
  await row(page, "welcome").waitFor();
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth));
  await page.setViewportSize({ width: 1280, height: 800 });
});

test("an engine that is killed is waited for in words, and comes back", async () => {
  const home = need("CORACLE_HOME");
  const pid = Number((await readFile(`${home}/run/engine/engine.pid`, "utf8")).trim());
  process.kill(pid, "SIGKILL");
  await page.getByText(/The engine (does not run|could not be started)|is starting/).first().waitFor();
  await accessible(page, "engine failed");
  if (await button("Start again").isVisible()) await button("Start again").click();
  await row(page, "welcome").getByText("running").waitFor({ timeout: 60_000 });
  await row(page, "box").waitFor();
});

test("the bridge answers its own page alone", async () => {
  const { host, hash } = new URL(url);
  const token = hash.replace("#token=", "");
  const ask = (path, headers = {}, method = "GET") =>
    new Promise((resolve, reject) => {
      const [name, port] = host.split(":");
      const request = http.request({ host: name, port, path, method, headers: { host, ...headers } }, (answer) => {
        answer.resume();
        resolve(answer);
      });
      request.on("error", reject);
      request.on("upgrade", (answer, socket) => {
        socket.destroy();
        resolve(answer);
      });
      request.end();
    });
  const status = async (...args) => (await ask(...args)).statusCode;
  assert.equal(await status("/docker/_ping"), 401);
  assert.equal(await status("/docker/_ping", { "x-coracle-token": `${token.slice(0, -1)}g` }), 401);
  assert.equal(await status("/docker/_ping", { "x-coracle-token": token }), 200);
  assert.equal(await status("/docker/_ping", { "x-coracle-token": token, host: "evil.example:80" }), 421);
  assert.equal(await status("/docker/_ping", { "x-coracle-token": token, origin: "http://evil.example" }), 403);
  assert.equal(await status("/control", {}, "POST"), 401);
  const upgrade = { connection: "Upgrade", upgrade: "websocket", "sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==" };
  assert.equal(await status("/open", upgrade), 401);
  assert.equal(await status("/open", { ...upgrade, "sec-websocket-protocol": `coracle, token.${token}`, origin: "http://evil.example" }), 403);
  assert.equal(await status("/open", { ...upgrade, "sec-websocket-protocol": `coracle, token.${token}`, origin: `http://${host}` }), 101);
  for (const path of ["/../package.json", "/%2e%2e/package.json", "/assets/../../package.json", "//etc/passwd"]) assert.equal(await status(path), 404, path);
  const index = await ask("/");
  assert.match(index.headers["content-security-policy"], /default-src 'none'; script-src 'self';/);
  const listening = await readFile("/proc/net/tcp", "utf8");
  const port = Number(host.split(":")[1]).toString(16).toUpperCase().padStart(4, "0");
  assert.ok(listening.includes(`0100007F:${port}`) && !listening.includes(`00000000:${port}`));
});

test("no fault was seen in the browser on the way", () => {
  assert.deepEqual(errors, []);
});

// What somebody who had never seen the app stumbled over, one test for each: whoever brings it back sees it here.
import assert from "node:assert/strict";
import { mkdir, readdir, readFile, truncate, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before } from "node:test";

import { accessible, coracle, docker, eventually, keeping, load, need, open, row, section, tab, url } from "./lib.mjs";

const folder = need("CORACLE_FOLDER");
const REGISTRY = "127.0.0.1:5000";
let browser;
let page;
let errors;

before(async () => {
  await coracle("start");
  await load(need("CORACLE_BUSYBOX"));
  await load(need("CORACLE_WELCOME"));
  await docker("run", "-d", "--name", "web", "-p", "18080:80", "coracle/welcome");
  ({ browser, page, errors } = await open());
  await row(page, "web").waitFor();
});
after(async () => {
  await browser?.close();
});

const test = keeping(() => page);
const button = (name) => page.getByRole("button", { name, exact: true });
const dialog = (name) => page.getByRole("dialog", { name });
const status = (text) => page.getByRole("status").filter({ hasText: text });
const forgetNotes = () => page.evaluate(() => document.querySelectorAll('[aria-label="Dismiss"]').forEach((b) => b.click()));

test("a port's button says what it opens, and that it was opened", async () => {
  await row(page, "web").click();
  const open = page.getByRole("region", { name: "Container web" }).getByRole("button", { name: "Open :18080", exact: true });
  assert.equal(await open.getAttribute("title"), "Open http://localhost:18080/ in the browser");
  const popup = page.waitForEvent("popup");
  await open.click();
  await (await popup).close();
  await status("Opened in the browser").getByText("http://localhost:18080/").first().waitFor();
  await forgetNotes();
});

test("a load ends with what was loaded, and leads there", async () => {
  const archive = join(folder, "two.tar");
  await docker("tag", "busybox", "loaded/one:1");
  await docker("tag", "busybox", "loaded/two:2");
  await docker("save", "-o", archive, "loaded/one:1", "loaded/two:2");
  await docker("rmi", "loaded/one:1", "loaded/two:2");
  await section(page, "Images");
  await button("Load").click();
  await page.getByLabel("File", { exact: true }).fill(archive);
  await button("Choose").click();
  const note = status("2 images loaded");
  await note.getByText("loaded/one:1, loaded/two:2").first().waitFor();
  await accessible(page, "a load is done");
  await note.getByRole("button", { name: "Show" }).first().click();
  await page.getByRole("region", { name: /^Image / }).getByRole("definition").filter({ hasText: "loaded/one:1" }).waitFor();
  await docker("rmi", "loaded/one:1", "loaded/two:2");
  await forgetNotes();
});

test("a pull that failed says so in one place, and shows no progress beside it", async () => {
  // A registry that begins, and then has not what it promised: layers are told of before the error.
  const name = `${REGISTRY}/broken:1`;
  await docker("run", "--name", "breaks", "busybox", "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=3 2>/dev/null");
  await docker("commit", "breaks", name);
  await docker("rm", "breaks");
  await docker("push", "-q", name);
  await docker("rmi", name);
  const manifest = await (await fetch(`http://${REGISTRY}/v2/broken/manifests/1`, { headers: { accept: "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json" } })).json();
  const digest = manifest.layers.at(-1).digest.replace("sha256:", "");
  const blob = (await readdir(folder, { recursive: true })).find((path) => path.endsWith(join("sha256", digest.slice(0, 2), digest, "data")));
  await truncate(join(folder, blob), 1000);
  await section(page, "Images");
  await button("Pull").click();
  const form = dialog("Pull an image");
  await form.getByLabel("Image", { exact: true }).fill(name);
  await form.getByRole("button", { name: "Pull", exact: true }).click();
  await form.getByRole("alert").waitFor();
  assert.equal(await form.getByRole("progressbar").count(), 0);
  assert.equal(await form.getByText(/Pulling|Downloading|Waiting/).count(), 0);
  assert.equal(await form.getByRole("listitem").count(), 0);
  await form.getByRole("button", { name: "Try again" }).waitFor();
  await form.getByRole("button", { name: "Close" }).last().click();
  // The same from the dialog that runs.
  await page.locator("body").press("n");
  const run = dialog("Run a container");
  await run.getByLabel("Image").fill(`${REGISTRY}/never-pushed:1`);
  await run.getByRole("button", { name: "Pull and run" }).click();
  await run.getByRole("alert").waitFor();
  assert.equal(await run.getByRole("progressbar").count(), 0);
  await run.getByRole("button", { name: "Pull and run" }).waitFor();
  await run.getByRole("button", { name: "Cancel", exact: true }).waitFor();
  await page.keyboard.press("Escape");
});

test("what could be freed is what is freed, by each choice", async () => {
  // An image without a name, an unused one with a name, one that shares its layers with what stays; what serves the app.
  const make = async (name, megabytes) => {
    await docker("run", "--name", "grows", "busybox", "sh", "-c", `dd if=/dev/urandom of=/big bs=1M count=${megabytes} 2>/dev/null`);
    await docker("commit", "grows", name);
    await docker("rm", "grows");
  };
  await make("grown:1", 2);
  await make("grown:1", 3);
  await docker("run", "--name", "leaves", "busybox", "sh", "-c", "dd if=/dev/zero of=/left bs=1k count=64 2>/dev/null");
  await docker("volume", "create", "free");
  await docker("run", "--rm", "-v", "free:/v", "busybox", "sh", "-c", "echo 12345 > /v/x");
  await section(page, "Volumes");
  await row(page, "free").click();
  await tab(page, "Files");
  await page.getByRole("button", { name: /^x / }).waitFor();
  await tab(page, "Overview");
  await section(page, "Activity");
  const line = (what) => page.getByRole("row").filter({ has: page.getByRole("cell", { name: what, exact: true }) });
  await line("Images").getByText("1 without a name").waitFor();
  // The new one; busybox and the page's image are in use, and what serves the app is nobody's to count.
  await line("Images").getByText("2 that nobody uses").waitFor();
  await accessible(page, "disk");
  const said = async (what, which = "") => {
    const text = (await line(what).locator("td").nth(2).locator("div").filter({ hasText: which }).first().innerText()).replace(/\s+/g, " ");
    return /[\d.]+ [kMG]?B$/.exec(text.trim())[0];
  };
  const free = async (what, option) => {
    await button(`Free: ${what}`).click();
    const asked = page.getByRole("dialog");
    if (option) await asked.getByLabel(option).check();
    return asked;
  };
  const both = { first: await said("Images", "without a name"), all: await said("Images", "that nobody uses") };
  let asked = await free("Images");
  await asked.getByText(`1 image without a name goes: ${both.first}.`).waitFor();
  await asked.getByLabel(`Also those that have a name: 2 images in all, ${both.all}`).waitFor();
  await asked.getByRole("button", { name: "Remove", exact: true }).click();
  await status("Unused images removed").getByText(`${both.first} freed`).first().waitFor();
  await forgetNotes();
  // Without one there is nothing to do but by the other choice.
  await line("Images").getByText("0 without a name").waitFor();
  const rest = await said("Images", "that nobody uses");
  asked = await free("Images");
  assert.ok(await asked.getByRole("button", { name: "Remove", exact: true }).isDisabled());
  await asked.getByLabel(/Also those that have a name/).check();
  await asked.getByRole("button", { name: "Remove", exact: true }).click();
  await status("Unused images removed").getByText(`${rest} freed`).first().waitFor();
  await forgetNotes();
  assert.equal(await docker("images", "-q", "grown"), "");
  assert.notEqual(await docker("images", "-q", "coracle/files"), "");
  for (const [what, words] of [["Containers", "container removed"], ["Volumes", "volume removed"]]) {
    const bytes = await said(what);
    asked = await free(what);
    await asked.getByText(`${bytes} are freed.`).waitFor();
    await asked.getByRole("button", { name: /^Remove/ }).click();
    await status(words).getByText(`${bytes} freed`).first().waitFor();
    await forgetNotes();
  }
});

test("images and volumes have one size wherever it is shown", async () => {
  await docker("run", "--name", "grows", "busybox", "sh", "-c", "dd if=/dev/urandom of=/big bs=1M count=2 2>/dev/null");
  await docker("commit", "grows", "sized:1");
  await docker("rm", "grows");
  await docker("volume", "create", "sized");
  await section(page, "Images");
  const shown = page.getByTitle(/^What all images take on the disk/);
  await row(page, "sized:1").click();
  const fact = (name) => page.locator("dt", { hasText: new RegExp(`^${name}$`) }).locator("+ dd");
  const [whole, own] = /^([\d.]+ MB), ([\d.]+ MB) its own/.exec(await fact("Size").innerText()).slice(1);
  await row(page, "sized:1").getByText(`${whole} (${own} its own)`).waitFor();
  assert.notEqual(own, whole);
  const total = (await shown.innerText()).replace(" on the disk", "");
  await section(page, "Activity");
  await page.getByRole("row").filter({ has: page.getByRole("cell", { name: "Images", exact: true }) }).getByText(total, { exact: true }).waitFor();
  // What a container writes is told by nobody: who looks sees it.
  await section(page, "Volumes");
  await row(page, "sized").click();
  await page.getByRole("region", { name: "Volume sized" }).locator("dd", { hasText: /^0 B$/ }).waitFor();
  await docker("run", "--rm", "-v", "sized:/v", "busybox", "sh", "-c", "printf %44s x > /v/x");
  await page.getByRole("region", { name: "Volume sized" }).locator("dd", { hasText: /^44 B$/ }).waitFor();
  await row(page, "sized").getByText("44 B", { exact: true }).waitFor();
  await section(page, "Activity");
  await page.getByRole("row").filter({ has: page.getByRole("cell", { name: "Volumes", exact: true }) }).getByText("44 B", { exact: true }).first().waitFor();
  await docker("rmi", "sized:1");
  await docker("volume", "rm", "sized");
});

test("a container's limits stand in its overview, in words", async () => {
  await docker("run", "-d", "--name", "limited", "--stop-timeout", "0", "--memory", "64m", "--cpus", "0.5", "--pids-limit", "50", "--restart", "on-failure:3", "busybox", "sleep", "1000");
  await section(page, "Containers");
  await row(page, "limited").click();
  await tab(page, "Overview");
  const facts = page.getByRole("region", { name: "Container limited" });
  const fact = (name) => facts.locator("dt", { hasText: new RegExp(`^${name}$`) }).locator("+ dd");
  await fact("Memory").getByText(/^67.1 MB/).waitFor();
  assert.equal(await fact("Processors").innerText(), "0.5");
  assert.equal(await fact("Processes").innerText(), "50");
  assert.equal(await fact("Restart").innerText(), "when it fails, up to 3 times");
  await accessible(page, "limits in the overview");
  // Another limit leaves the policy as it is.
  await button("More actions").click();
  await page.getByRole("menuitem", { name: "Limits and restarts…" }).click();
  await dialog("Limits of limited").getByLabel("Processors").fill("0.75");
  await button("Apply").click();
  await eventually("it is shown", async () => (await fact("Processors").innerText()) === "0.75");
  assert.equal(await fact("Restart").innerText(), "when it fails, up to 3 times");
  await tab(page, "Stats");
  await facts.getByText("100 % is one processor. It may use 0.75.").waitFor();
  // One share of a processor: the one of `ps` is over a process' whole life, and another number.
  await page.getByRole("columnheader", { name: "PID", exact: true }).waitFor();
  assert.equal(await page.getByRole("columnheader", { name: "C", exact: true }).count(), 0);
  await docker("rm", "-f", "limited");
});

test("a container that ends at once shows what it said, and its code", async () => {
  await section(page, "Containers");
  await page.locator("body").press("n");
  const run = dialog("Run a container");
  await run.getByLabel("Image").fill("busybox");
  await run.getByLabel("Name", { exact: true }).fill("brief");
  await run.getByLabel("Command", { exact: true }).fill("sh -c 'echo goodbye; exit 5'");
  await run.getByRole("button", { name: "Run", exact: true }).click();
  await page.getByRole("log", { name: "Log of brief" }).getByText("goodbye").waitFor();
  await status(/^It ended .* with code 5\.$/).waitFor();
  await accessible(page, "the log of what has ended");
  // Only once: who looks at it again gets what they ask for.
  await tab(page, "Overview");
  await page.getByRole("region", { name: "Container brief" }).getByText("Limits", { exact: true }).waitFor();
  await docker("rm", "brief");
});

test("the right button shows a row's own menu, and the web view's only where text is", async () => {
  await section(page, "Containers");
  await row(page, "web").click({ button: "right" });
  const menu = page.getByRole("menu", { name: "web" });
  for (const name of ["Open :18080", "Stop", "Restart", "Logs", "Rename…", "Copy the id", "Remove…"]) await menu.getByRole("menuitem", { name, exact: true }).waitFor();
  await accessible(page, "a row's menu");
  const box = await menu.boundingBox();
  const { width, height } = page.viewportSize();
  assert.ok(box.x >= 0 && box.y >= 0 && box.x + box.width <= width && box.y + box.height <= height, JSON.stringify(box));
  await menu.getByRole("menuitem", { name: "Copy the id" }).click();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), await docker("inspect", "-f", "{{.Id}}", "web"));
  await menu.waitFor({ state: "hidden" });
  // By its key, and walked by arrows; Escape gives the focus back.
  await row(page, "web").focus();
  await page.keyboard.press("Shift+F10");
  await menu.waitFor();
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "Stop");
  await page.keyboard.press("Escape");
  await menu.waitFor({ state: "hidden" });
  await page.keyboard.press("Shift+F10");
  await menu.getByRole("menuitem", { name: "Logs", exact: true }).click();
  await page.getByRole("log", { name: "Log of web" }).waitFor();
  for (const [screen, name, item] of [["Images", "coracle/welcome:latest", "Run…"], ["Networks", "bridge", "Copy the id"]]) {
    await section(page, screen);
    await row(page, name).click({ button: "right" });
    await page.getByRole("menuitem", { name: item }).first().waitFor();
    await page.keyboard.press("Escape");
  }
  // A click elsewhere closes it, and is a click.
  await row(page, "bridge").click({ button: "right" });
  await page.getByRole("menu", { name: "bridge" }).waitFor();
  await page.locator("#filter").click();
  await page.getByRole("menu", { name: "bridge" }).waitFor({ state: "hidden" });
  assert.equal(await page.evaluate(() => document.activeElement.id), "filter");
  // Who asks where there is neither a row nor text gets nothing.
  const kept = (selector) =>
    page.evaluate((where) => {
      const event = new MouseEvent("contextmenu", { bubbles: true, cancelable: true });
      document.querySelector(where).dispatchEvent(event);
      return !event.defaultPrevented;
    }, selector);
  assert.equal(await kept("nav"), false);
  assert.equal(await kept("#filter"), true);
  await row(page, "bridge").click();
  await page.evaluate(() => getSelection().selectAllChildren(document.querySelector("dl.facts dd")));
  assert.equal(await kept("dl.facts dd"), true);
  await page.evaluate(() => getSelection().removeAllRanges());
  assert.equal(await kept("dl.facts dd"), false);
});

test("files: the preview is closed, a text is edited, and what stands in the way is said", async () => {
  await docker("run", "-d", "--name", "desk", "--stop-timeout", "0", "-v", "desk:/data", "-v", "desk:/fixed:ro", "busybox", "sh", "-c", "mkdir /w; printf 'one\\r\\ntwo\\r\\n' > /w/win.txt; echo plain > /w/plain.txt; chown 1000:1001 /w/plain.txt; chmod 640 /w/plain.txt; ln -s /etc /w/link; printf 'caf\\351' > /w/latin.txt; ln /w/plain.txt /w/other.txt; dd if=/dev/zero of=/w/large.txt bs=1k count=1100 2>/dev/null; echo volume > /data/v.txt; sleep 1000");
  const inside = (...args) => docker("exec", "desk", ...args);
  await section(page, "Containers");
  await row(page, "desk").click();
  await tab(page, "Files");
  const go = (name) => page.getByRole("button", { name: new RegExp(`^${name} `) }).click();
  const preview = (name) => page.getByRole("region", { name: `Preview of ${name}` });
  // Of this file: until its preview is there, the one before has its own.
  const edit = (name) => preview(name).getByRole("button", { name: "Edit", exact: true }).click();
  await go("w");
  assert.match(await page.getByRole("button", { name: /^link/ }).innerText(), /^link\s*→ \/etc/);
  await go("plain.txt");
  await preview("plain.txt").getByText("plain", { exact: true }).last().waitFor();
  await button("Close the preview").click();
  await preview("plain.txt").waitFor({ state: "detached" });
  // Saved with its owner and mode.
  await go("plain.txt");
  await edit("plain.txt");
  const area = (name) => page.getByRole("textbox", { name: `Text of ${name}` });
  await area("plain.txt").fill("changed\n");
  await accessible(page, "a file that is edited");
  await page.keyboard.press("Control+s");
  await status("plain.txt saved").first().waitFor();
  assert.equal(await inside("stat", "-c", "%u:%g %a", "/w/plain.txt"), "1000:1001 640");
  assert.equal(await inside("cat", "/w/plain.txt"), "changed");
  // The same file, by each of its names.
  assert.equal(await inside("cat", "/w/other.txt"), "changed");
  await preview("plain.txt").getByText("changed", { exact: true }).waitFor();
  // Lines end as they did.
  await go("win.txt");
  await edit("win.txt");
  await area("win.txt").fill("one\nthree\n");
  await button("Save").click();
  await status("win.txt saved").first().waitFor();
  assert.equal(await inside("od", "-An", "-c", "/w/win.txt"), "o   n   e  \\r  \\n   t   h   r   e   e  \\r  \\n");
  // What was typed outlives a look elsewhere; what was written meanwhile is not lost.
  await go("plain.txt");
  await edit("plain.txt");
  await area("plain.txt").fill("mine\n");
  await tab(page, "Logs");
  await inside("sh", "-c", "echo theirs > /w/plain.txt");
  await tab(page, "Files");
  await go("w");
  await go("plain.txt");
  assert.equal(await area("plain.txt").inputValue(), "mine\n");
  await button("Save").click();
  const alert = preview("plain.txt").getByRole("alert");
  await alert.getByText(/changed by somebody else/).waitFor();
  await accessible(page, "changed meanwhile");
  assert.equal(await inside("cat", "/w/plain.txt"), "theirs");
  await button("Save all the same").click();
  await eventually("it is saved", async () => (await inside("cat", "/w/plain.txt").catch(() => "")) === "mine");
  await preview("plain.txt").getByText("mine", { exact: true }).waitFor();
  // What was removed is made anew, with owner and mode.
  await edit("plain.txt");
  await area("plain.txt").fill("again\n");
  await inside("rm", "/w/plain.txt");
  await button("Save").click();
  await preview("plain.txt").getByRole("alert").getByText(/removed by somebody else/).waitFor();
  await button("Save all the same").click();
  await eventually("it is there again", async () => (await inside("cat", "/w/plain.txt").catch(() => "")) === "again");
  assert.equal(await inside("stat", "-c", "%u:%g %a", "/w/plain.txt"), "1000:1001 640");
  await preview("plain.txt").getByText("again", { exact: true }).waitFor();
  // What can't be edited says why.
  await go("latin.txt");
  await preview("latin.txt").getByText(/not in UTF-8/).waitFor();
  assert.equal(await button("Edit").count(), 0);
  await go("large.txt");
  await preview("large.txt").getByText(/Files of up to 1.0 MB are shown and edited here/).waitFor();
  await button("Up").click();
  await go("etc");
  await go("hosts");
  await edit("hosts");
  await area("hosts").press("Control+End");
  await page.keyboard.type("10.0.0.9 elsewhere\n");
  await button("Save").click();
  await status("hosts saved").first().waitFor();
  assert.match(await inside("cat", "/etc/hosts"), /10\.0\.0\.9 elsewhere$/);
  await button("Up").click();
  await go("fixed");
  await go("v.txt");
  await edit("v.txt");
  await area("v.txt").fill("no\n");
  await button("Save").click();
  await preview("v.txt").getByRole("alert").getByText(/read-only/).waitFor();
  await button("Discard").click();
  // The volume itself, which one container has at two places.
  await section(page, "Volumes");
  await row(page, "desk").click();
  await tab(page, "Files");
  await go("v.txt");
  await edit("v.txt");
  await area("v.txt").fill("written here\n");
  await tab(page, "Overview");
  await tab(page, "Files");
  await go("v.txt");
  assert.equal(await area("v.txt").inputValue(), "written here\n");
  await button("Save").click();
  await eventually("it is in the volume", async () => (await inside("cat", "/data/v.txt").catch(() => "")) === "written here");
  await docker("rm", "-f", "desk");
  // Who looks into a volume does not keep it from being removed.
  await page.getByRole("region", { name: "Volume desk" }).getByRole("button", { name: "Remove", exact: true }).click();
  await button("Remove the volume").click();
  await row(page, "desk").waitFor({ state: "detached" });
  assert.equal(await docker("volume", "ls", "-q", "--filter", "name=desk"), "");
  await forgetNotes();
});

test("columns have heads, counts and names say what they are", async () => {
  await section(page, "Containers");
  const running = (await docker("ps", "-q")).split("\n").filter(Boolean).length;
  const all = (await docker("ps", "-aq")).split("\n").filter(Boolean).length;
  await page.getByRole("navigation", { name: "Sections" }).getByRole("button", { name: new RegExp(`^Containers ${running} of ${all} running`) }).waitFor();
  await page.locator("body").press("n");
  const run = dialog("Run a container");
  await run.getByLabel("Image").fill("coracle/welcome");
  for (const head of ["On this computer", "In the container", "Protocol"]) await run.getByText(head, { exact: true }).first().waitFor();
  const left = async (locator) => (await locator.boundingBox()).x;
  const near = async (a, b) => Math.abs((await left(a)) - (await left(b))) < 10;
  assert.ok(await near(run.getByText("In the container", { exact: true }).first(), run.getByLabel("Port in the container")), "a head stands above its column");
  assert.ok(await near(run.getByText("Protocol", { exact: true }).first(), run.getByLabel("Protocol")), "a head stands above its column");
  await page.keyboard.press("Escape");
});

test("a build has one name, while it goes on and afterwards, and its ticks stand in line", async () => {
  const app = join(folder, "orders");
  await mkdir(app, { recursive: true });
  await writeFile(join(app, "own.Dockerfile"), "FROM busybox\nRUN echo built\n");
  await section(page, "Builds");
  await button("Build an image").or(button("Build")).first().click();
  const form = dialog("Build an image");
  await form.getByLabel("Folder", { exact: true }).fill(app);
  await form.getByLabel("Dockerfile").fill("own.Dockerfile");
  await form.getByLabel("Name of the image").fill("shop/orders:9");
  await form.getByRole("button", { name: "Build", exact: true }).click();
  await status("shop/orders:9 built").first().waitFor({ timeout: 60_000 });
  const heading = page.getByRole("heading", { level: 1, name: "orders/own.Dockerfile", exact: true });
  await heading.waitFor();
  const step = page.getByRole("button", { name: /RUN echo built/ });
  const middle = async (locator) => {
    const box = await locator.boundingBox();
    return box.y + box.height / 2;
  };
  assert.ok(Math.abs((await middle(step.locator("svg"))) - (await middle(step.locator("code")))) <= 1.5, "a tick stands in the middle of its line");
  await row(page, "orders/own.Dockerfile").click();
  await page.getByRole("region", { name: "Build orders/own.Dockerfile" }).waitFor();
  await heading.waitFor();
  await docker("rmi", "shop/orders:9");
  await forgetNotes();
});

test("Rosetta is a setting where the machine can have it, and nowhere else", async () => {
  await section(page, "Settings");
  await page.getByText("on this Linux itself").first().waitFor();
  assert.equal(await page.getByLabel("Run programs of amd64 by Rosetta").count(), 0);
  // A Mac is not here: its settings are made up.
  const context = await browser.newContext();
  const mac = await context.newPage();
  const set = [];
  await mac.route("**/control", async (route) => {
    const asked = route.request().postDataJSON();
    if (asked.control === "set") set.push([asked.key, asked.value]);
    if (asked.control !== "settings" && asked.control !== "set") return route.continue();
    await route.fulfill({ json: { answer: "settings", settings: { driver: "vfkit", cpus: "4", "memory-mib": "4096", "disk-gib": "64", "idle-stop-s": "0", shares: "", rosetta: set.at(-1)?.[1] ?? "true" } } });
  });
  await mac.goto(url);
  await section(mac, "Settings");
  await mac.getByText("in a virtual machine of this Mac’s own").waitFor();
  const rosetta = mac.getByLabel("Run programs of amd64 by Rosetta");
  assert.ok(await rosetta.isChecked());
  await rosetta.uncheck();
  await accessible(mac, "settings of a Mac");
  await mac.getByRole("region", { name: "Machine" }).getByRole("button", { name: "Save" }).click();
  await eventually("it is sent", () => set.length > 0);
  assert.deepEqual(set, [["rosetta", "false"]]);
  await context.close();
});

test("containers are sorted by what a person chooses, and it is kept", async () => {
  await docker("create", "--name", "aaa-older", "busybox", "true");
  // A list has its times in whole seconds.
  const second = Math.floor(Date.now() / 1000);
  await eventually("another second", () => Math.floor(Date.now() / 1000) > second);
  await docker("create", "--name", "bbb-newer", "busybox", "true");
  await section(page, "Containers");
  await row(page, "bbb-newer").waitFor();
  const order = async () => {
    const names = await page.getByRole("grid", { name: "Containers" }).locator(".title").allInnerTexts();
    return names.filter((name) => /^(aaa|bbb)-/.test(name)).join(" ");
  };
  assert.equal(await order(), "aaa-older bbb-newer");
  await button("Order").click();
  await accessible(page, "the menu of orders");
  await page.getByRole("menuitemradio", { name: "Newest first" }).click();
  await eventually("the newest is first", async () => (await order()) === "bbb-newer aaa-older");
  await page.reload();
  await row(page, "bbb-newer").waitFor();
  assert.equal(await order(), "bbb-newer aaa-older");
  await button("Order").click();
  await page.getByRole("menuitemradio", { name: "By name" }).click();
  await docker("rm", "aaa-older", "bbb-newer");
  // The list closes up: what is clicked next would be somewhere else by then.
  for (const name of ["aaa-older", "bbb-newer"]) await row(page, name).waitFor({ state: "detached" });
});

test("a container's checks of its health are a history", async () => {
  await docker("run", "-d", "--name", "checked", "--stop-timeout", "0", "--health-cmd", "echo looked; exit 1", "--health-interval", "1s", "--health-retries", "2", "busybox", "sleep", "1000");
  await row(page, "checked").click();
  await tab(page, "Overview");
  const card = page.locator(".card", { has: page.getByRole("heading", { name: /^Health:/ }) });
  await eventually("several checks are shown", async () => (await card.getByText("looked", { exact: true }).count()) >= 2);
  await card.getByText(/^The last( \d+)? checks? failed\.$/).waitFor();
  await accessible(page, "a history of health");
  await docker("rm", "-f", "checked");
});

test("a network is inspected as the engine tells it", async () => {
  await section(page, "Networks");
  await row(page, "bridge").click();
  await tab(page, "Inspect");
  await page.getByText(/"EnableIPv6"|EnableIPv6/).first().waitFor();
  await page.getByText(await docker("inspect", "-f", "{{.Id}}", "web")).first().waitFor();
  await accessible(page, "a network, inspected");
  await tab(page, "Overview");
});

test("who was made to be typed into is typed into, and outlives that somebody looks away", async () => {
  // As docker run -it makes it: its input is one client's, and ends with it.
  await docker("create", "-it", "--name", "typed", "--stop-timeout", "0", "busybox", "sh");
  await docker("start", "typed");
  await section(page, "Containers");
  await row(page, "typed").click();
  await tab(page, "Terminal");
  assert.equal(await page.getByLabel("Shell").inputValue(), "own");
  const screen = page.locator(".xterm-accessibility");
  await screen.getByText(/BusyBox/).first().waitFor();
  // A line that has no end yet is in no log: the prompt that stands there comes with the next one.
  await page.keyboard.press("Enter");
  await screen.getByText("#").first().waitFor();
  await page.keyboard.type("echo me=$$; stty size\n");
  await screen.getByText("me=1", { exact: true }).waitFor();
  const size = await eventually("stty answers", async () => /^(\d+) (\d+)$/m.exec(await page.locator(".xterm-accessibility-tree").innerText()));
  assert.ok(Number(size[2]) > 60, size[0]);
  await accessible(page, "attached");
  await tab(page, "Overview");
  await tab(page, "Terminal");
  // What it said before is there again.
  await screen.getByText("me=1", { exact: true }).waitFor();
  assert.equal(await docker("inspect", "-f", "{{.State.Running}}", "typed"), "true");
  await page.getByLabel("Shell").selectOption("sh");
  await screen.getByText("#").first().waitFor();
  assert.equal(await docker("inspect", "-f", "{{.State.Running}}", "typed"), "true");
  await docker("rm", "-f", "typed");
  await row(page, "typed").waitFor({ state: "detached" });
});

test("rights are added by name, and a wrong one is refused in place", async () => {
  await page.locator("body").press("n");
  const run = dialog("Run a container");
  await run.getByLabel("Image").fill("busybox");
  await run.getByLabel("Name", { exact: true }).fill("entitled");
  await run.getByLabel("Command", { exact: true }).fill("sleep 1000");
  await run.getByText("More", { exact: true }).click();
  await run.getByLabel("Rights").fill("net-admin");
  await run.getByText(/NET-ADMIN is no capability/).waitFor();
  await run.getByLabel("Rights").fill("net_admin");
  await run.getByText(/--cap-add NET_ADMIN/).waitFor();
  await run.getByRole("button", { name: "Run", exact: true }).click();
  await row(page, "entitled").getByText("running").waitFor();
  assert.match(await docker("inspect", "-f", "{{.HostConfig.CapAdd}}", "entitled"), /NET_ADMIN/);
  await docker("rm", "-f", "entitled");
});

test("a log is shown by output: all, what was meant to be said, errors", async () => {
  await docker("run", "--name", "speaks", "busybox", "sh", "-c", "echo said; echo complained >&2; echo said again");
  await section(page, "Containers");
  await row(page, "speaks").click();
  await tab(page, "Logs");
  const log = page.getByRole("log", { name: "Log of speaks" });
  const which = page.getByLabel("Which output");
  await page.getByText(/^3 lines/).waitFor();
  await which.selectOption("stderr");
  await page.getByText(/^1 line,/).waitFor();
  // Lines are counted before they are there.
  const shows = (lines) => eventually(`the log shows ${lines}`, async () => (await log.innerText()).trim().split(/\n+/).join(" | ") === lines);
  await shows("complained");
  await page.getByLabel("Search the log").fill("said");
  await page.getByText("nothing found").waitFor();
  await which.selectOption("stdout");
  await page.getByText("2 of 2", { exact: true }).or(page.getByText("1 of 2", { exact: true })).waitFor();
  await page.getByText(/^2 lines/).waitFor();
  await shows("said | said again");
  const download = page.waitForEvent("download");
  await button("Download the log").click();
  assert.equal(await readFile(await (await download).path(), "utf8"), "said\nsaid again\n");
  await accessible(page, "a log by output");
  await page.getByLabel("Search the log").fill("");
  await which.selectOption("");
  await page.getByText(/^3 lines/).waitFor();
  await docker("rm", "speaks");
});

test("no fault was seen in the browser on the way", () => {
  assert.deepEqual(errors, []);
});

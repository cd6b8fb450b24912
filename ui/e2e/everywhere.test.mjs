// What holds on every screen, and while something takes its time: keys, motion, what is not there, cancelling, a daemon
// that is gone.
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { readFile } from "node:fs/promises";
import http from "node:http";
import { after, before } from "node:test";

import { coracle, docker, eventually, keeping, load, need, open, row, section, tab, url } from "./lib.mjs";

const SECTIONS = ["Containers", "Images", "Volumes", "Networks", "Builds", "Activity", "Settings"];
let browser;
let page;
let errors;

before(async () => {
  await coracle("start");
  await load(need("CORACLE_BUSYBOX"));
  await docker("run", "-d", "--name", "box", "--stop-timeout", "0", "-v", "kept:/data", "busybox", "sleep", "100000");
  ({ browser, page, errors } = await open());
  await row(page, "box").waitFor();
});
after(async () => {
  await docker("rm", "-f", "box").catch(() => undefined);
  await browser?.close();
});

const test = keeping(() => page);
const button = (name) => page.getByRole("button", { name, exact: true });

/** Everything that can be clicked and is seen, but for what a row, a list of tabs or a choice leads to by arrows and keys of its own. */
const clickable = () =>
  page.evaluate(() =>
    [...document.querySelectorAll("button, a[href], input, select, textarea, summary")]
      .filter((e) => !e.disabled && e.checkVisibility({ visibilityProperty: true }) && e.getClientRects().length && !e.closest("[role=row], [role=tablist], .sr") && !e.matches(".sr, input[type=radio]:not(:checked)"))
      .map((e) => (e.dataset.walked ??= `${Math.random()}`)),
  );

/** Where Tab leads, from the beginning of the page until it comes back; each must show that it has the focus. */
async function walk(where) {
  const reached = new Set();
  await page.evaluate(() => document.activeElement?.blur());
  for (let n = 0; n < 300; n++) {
    await page.keyboard.press("Tab");
    const at = await page.evaluate(() => {
      const e = document.activeElement;
      if (!e || e === document.body) return undefined;
      const style = getComputedStyle(e);
      const again = e.dataset.visited === "1";
      e.dataset.visited = "1";
      return { key: e.dataset.walked ?? "", again, seen: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0, what: e.outerHTML.slice(0, 120), terminal: !!e.closest(".xterm") };
    });
    // Between the last and the first.
    if (!at) continue;
    if (at.again) break;
    assert.ok(at.seen || at.terminal, `${where}: nothing shows that this has the focus: ${at.what}`);
    reached.add(at.key);
  }
  await page.evaluate(() => document.querySelectorAll("[data-visited]").forEach((e) => delete e.dataset.visited));
  return reached;
}

test("by Tab every button, field and link of every screen is reached, and shows it", async () => {
  const look = async (where) => {
    const all = await clickable();
    const reached = await walk(where);
    const missed = [];
    for (const key of all) if (!reached.has(key)) missed.push(await page.evaluate((k) => document.querySelector(`[data-walked="${k}"]`)?.outerHTML.slice(0, 160), key));
    // What came or went meanwhile is not missed.
    assert.deepEqual(missed.filter(Boolean), [], where);
  };
  for (const name of SECTIONS) {
    await section(page, name);
    await page.getByRole("heading", { level: 1, name: name === "Networks" ? /Networks|Who is connected/ : name }).first().waitFor();
    await look(name);
  }
  await section(page, "Containers");
  await row(page, "box").click();
  for (const name of ["Overview", "Logs", "Files", "Stats", "Inspect"]) {
    await tab(page, name);
    await page.getByRole("tab", { name, selected: true }).waitFor();
    await look(`a container's ${name}`);
  }
});

test("nothing moves for who asked for that; for others it moves for 150 ms at most", async () => {
  const longest = () =>
    page.evaluate(() => {
      const seconds = (text) => Math.max(...text.split(",").map((t) => (t.trim().endsWith("ms") ? parseFloat(t) / 1000 : parseFloat(t))));
      const moves = (e) => {
        const style = getComputedStyle(e);
        const turns = style.animationName !== "none" && !e.matches(".spin");
        return Math.max(style.transitionProperty === "none" ? 0 : seconds(style.transitionDuration), turns ? seconds(style.animationDuration) : 0);
      };
      return Math.max(...[...document.querySelectorAll("*")].map(moves));
    });
  const turning = () =>
    page.evaluate(() => {
      const wheel = document.createElement("i");
      wheel.className = "spin";
      document.body.append(wheel);
      const turns = wheel.getAnimations().length;
      wheel.remove();
      return turns;
    });
  for (const name of SECTIONS) {
    await section(page, name);
    await page.emulateMedia({ reducedMotion: "reduce" });
    assert.equal(await longest(), 0, name);
    assert.equal(await turning(), 0, name);
    await page.emulateMedia({ reducedMotion: "no-preference" });
    assert.ok((await longest()) <= 0.15, `${name}: ${await longest()} s`);
    assert.equal(await turning(), 1, name);
  }
  await page.emulateMedia({ reducedMotion: "reduce" });
});

test("what the engine or this computer can't do is not shown", async () => {
  const context = await browser.newContext();
  const less = await context.newPage();
  const told = { tools: 0, features: 0 };
  await less.route("**/control", async (route) => {
    if (route.request().postDataJSON().control !== "tools") return route.continue();
    await route.fulfill({ json: { answer: "tools", compose: null, build: null, store: null } });
    told.tools += 1;
  });
  await less.route("**/docker**", async (route) => {
    const answer = await route.fetch();
    const text = await answer.text();
    if (!text.includes('"CoracleSnapshot"')) return route.fulfill({ response: answer, body: text });
    const features = JSON.parse(text);
    await route.fulfill({ response: answer, json: { ...features, operations: features.operations.filter((o) => !o.startsWith("CoracleSnapshot")) } });
    told.features += 1;
  });
  await less.goto(url);
  await row(less, "box").waitFor();
  await eventually("it is told of both", () => told.tools > 0 && told.features > 0);
  assert.equal(await less.getByRole("button", { name: "Compose", exact: true }).count(), 0);
  assert.equal(await less.getByRole("navigation", { name: "Sections" }).getByRole("button", { name: "Builds" }).count(), 0);
  await section(less, "Volumes");
  await row(less, "kept").click();
  await less.getByRole("region", { name: "Volume kept" }).getByText("Used by").waitFor();
  assert.equal(await less.getByText("Take a snapshot…").count(), 0);
  await context.close();
  await section(page, "Volumes");
  await row(page, "kept").click();
  await page.getByText("Take a snapshot…").waitFor();
  await section(page, "Containers");
  await button("Compose").waitFor();
});

test("a pull that takes long is cancelled, and the engine gives it up", async () => {
  // A registry whose layer comes by drops, and never whole.
  const digest = (text) => `sha256:${createHash("sha256").update(text).digest("hex")}`;
  const config = JSON.stringify({ architecture: "amd64", os: "linux", config: {}, rootfs: { type: "layers", diff_ids: [digest("never")] } });
  const layer = { mediaType: "application/vnd.oci.image.layer.v1.tar+gzip", digest: digest("layer"), size: 50_000_000 };
  const kind = "application/vnd.oci.image.manifest.v1+json";
  const manifest = JSON.stringify({ schemaVersion: 2, mediaType: kind, config: { mediaType: "application/vnd.oci.image.config.v1+json", digest: digest(config), size: config.length }, layers: [layer] });
  const drops = new Set();
  let gone = 0;
  const slow = http.createServer((request, answer) => {
    if (request.url.includes("/manifests/")) return answer.writeHead(200, { "content-type": kind, "content-length": manifest.length, "docker-content-digest": digest(manifest) }).end(request.method === "HEAD" ? undefined : manifest);
    if (request.url.endsWith(digest(config))) return answer.end(config);
    if (!request.url.endsWith(layer.digest)) return answer.end();
    answer.writeHead(200, { "content-length": layer.size });
    const drop = setInterval(() => answer.write(Buffer.alloc(20_000, "x")), 20);
    drops.add(drop);
    answer.on("close", () => {
      clearInterval(drop);
      gone += 1;
    });
  });
  await new Promise((ready) => slow.listen(5055, "127.0.0.1", ready));
  try {
    await section(page, "Images");
    await button("Pull").click();
    const dialog = page.getByRole("dialog", { name: "Pull an image" });
    await dialog.getByLabel("Image", { exact: true }).fill("127.0.0.1:5055/slow:1");
    await dialog.getByRole("button", { name: "Pull", exact: true }).click();
    await dialog.getByRole("progressbar").first().waitFor();
    await eventually("the layer comes", () => drops.size > 0);
    await dialog.getByRole("button", { name: "Cancel the pull" }).click();
    await dialog.getByRole("button", { name: "Try again" }).waitFor();
    await eventually("the engine wants it no more", () => gone === drops.size);
    await dialog.getByRole("button", { name: "Close" }).last().click();
    await button("Operations").or(page.getByTitle("Operations")).first().click();
    await page.getByRole("dialog", { name: "Operations" }).getByText(/^cancelled/).first().waitFor();
    await page.keyboard.press("Escape");
    assert.equal(await docker("images", "-q", "127.0.0.1:5055/slow"), "");
  } finally {
    for (const drop of drops) clearInterval(drop);
    slow.closeAllConnections();
    slow.close();
  }
});

test("a daemon that is killed is waited for in words; with the next one everything is there again", async () => {
  await section(page, "Containers");
  await row(page, "box").waitFor();
  const pid = Number((await readFile(`${need("CORACLE_HOME")}/run/daemon.pid`, "utf8")).trim());
  process.kill(pid, "SIGKILL");
  await page.getByText(/The engine is stopped|The daemon is not reached|The engine does not run/).first().waitFor();
  // Its container went on, or goes on.
  await button("Start the engine").or(button("Start again")).first().click();
  await row(page, "box").getByText("running").waitFor({ timeout: 60_000 });
  await docker("run", "-d", "--name", "later", "--stop-timeout", "0", "busybox", "sleep", "1000");
  await row(page, "later").waitFor();
  await docker("rm", "-f", "later");
  await row(page, "later").waitFor({ state: "detached" });
});

test("no fault was seen in the browser on the way", () => {
  assert.deepEqual(errors, []);
});

// What somebody who had never seen the app stumbled over, one test for each: whoever brings it back sees it here.
import assert from "node:assert/strict";
import { readdir, truncate } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test as plain } from "node:test";

import { accessible, coracle, docker, eventually, load, need, open, row, section, tab, url } from "./lib.mjs";

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

/** A test; where it fails, what the page showed is kept beside the other pictures. */
const test = (name, steps) =>
  plain(name, { skip: !!process.env.CORACLE_ONLY && !name.includes(process.env.CORACLE_ONLY) }, async () => {
    try {
      await steps();
    } catch (error) {
      console.log(`${name}: ${error.message.slice(0, 700)}`);
      if (process.env.CORACLE_SHOTS) await page.screenshot({ path: join(process.env.CORACLE_SHOTS, `failed-${name.replaceAll(/\W+/g, "-").slice(0, 40)}.png`) });
      for (let n = 0; n < 3; n++) await page.keyboard.press("Escape");
      throw error;
    }
  });
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
  await tab(page, "Stats");
  await facts.getByText("100 % is one processor. It may use 0.5.").waitFor();
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

test("no fault was seen in the browser on the way", () => {
  assert.deepEqual(errors, []);
});

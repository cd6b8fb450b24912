// The app in front of a machine: from nothing to a page that comes out of a guest, and what the guest alone can show.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accessible, coracle, docker, open, row, section, tab } from "./lib.mjs";

/** An emulated machine boots in tens of seconds. */
const BOOT_MS = 240_000;
let browser;
let page;
let errors;

before(async () => {
  ({ browser, page, errors } = await open());
});
after(async () => {
  await browser?.close();
});
const button = (name) => page.getByRole("button", { name, exact: true });

test("one click boots the machine, another runs a container and opens its page", async () => {
  await button("Start the engine").click();
  await page.getByText("The engine is starting…").waitFor();
  await button("Run the first container").waitFor({ timeout: BOOT_MS });
  const popup = page.waitForEvent("popup", { timeout: 60_000 });
  await button("Run the first container").click();
  const opened = await popup;
  await opened.getByText("This page comes from a container").waitFor({ timeout: 60_000 });
  await opened.close();
});

test("logs, terminal and use of a container in the guest", async () => {
  await row(page, "welcome").click();
  await tab(page, "Logs");
  await page.getByRole("log").waitFor();
  await tab(page, "Terminal");
  await page.locator(".xterm-accessibility").getByText("#").first().waitFor({ timeout: 60_000 });
  await page.keyboard.type("echo $((6*7))x\n");
  await page.locator(".xterm-accessibility").getByText("42x").first().waitFor({ timeout: 60_000 });
  await section(page, "Activity");
  // The guest has what measures memory.
  await page.getByRole("figure", { name: /^Memory: [\d.]+ [kM]B of/ }).waitFor({ timeout: 60_000 });
});

test("memory of a running container is limited", async () => {
  await section(page, "Containers");
  await button("More actions").click();
  await page.getByRole("menuitem", { name: "Limits and restarts…" }).click();
  await page.getByLabel("Memory").fill("64m");
  await button("Apply").click();
  await page.getByRole("status").filter({ hasText: "Limits of welcome changed" }).first().waitFor({ timeout: 60_000 });
  assert.equal(await docker("inspect", "-f", "{{.HostConfig.Memory}}", "welcome"), String(64 << 20));
});

test("settings of the machine are checked in place and act", async () => {
  await section(page, "Settings");
  await page.getByLabel("Memory").fill("1");
  await page.getByText(/A whole number, at least 512/).waitFor();
  await page.getByLabel("Memory").fill("1100");
  const form = page.locator("form").filter({ has: page.getByLabel("Memory") });
  await form.getByRole("button", { name: "Save", exact: true }).click();
  await page.getByText("Acts after a restart.").waitFor();
  assert.equal(await coracle("settings", "get", "memory-mib"), "1100");
  await button("Machine’s console").click();
  await page.getByLabel("The machine’s console").waitFor();
  await accessible(page, "settings of a machine");
});

test("no fault was seen in the browser on the way", () => {
  assert.deepEqual(errors, []);
});

// What the tests in a browser stand on: Chromium, the page, axe, and the stock docker CLI beside them.
//
// `cargo xtask test` names in the environment: CORACLE_URL (the bridge with its token), CORACLE_CHROMIUM, DOCKER (the
// stock CLI; DOCKER_HOST leads it to the same engine), CORACLE (the command line of the same home), CORACLE_WELCOME
// (the welcome image's archive).
import { execFile, spawn } from "node:child_process";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";
import { promisify } from "node:util";

import { chromium } from "playwright-core";

const run = promisify(execFile);
const axe = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
export const url = need("CORACLE_URL");

export function need(name) {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set: run these tests by \`cargo xtask test\``);
  return value;
}

/** The stock CLI; what it printed. */
export async function docker(...args) {
  const { stdout } = await run(need("DOCKER"), args, { maxBuffer: 64 << 20 });
  return stdout.trim();
}

export async function coracle(...args) {
  const { stdout } = await run(need("CORACLE"), args);
  return stdout.trim();
}

export async function load(archive) {
  await docker("load", "-q", "-i", archive);
}

export function dockerInBackground(...args) {
  return spawn(need("DOCKER"), args, { stdio: "ignore" });
}

export async function open({ theme = "light", width = 1280, height = 800, scale = 1, language } = {}) {
  const browser = await chromium.launch({
    executablePath: need("CORACLE_CHROMIUM"),
    args: ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", "--force-color-profile=srgb"],
  });
  const context = await browser.newContext({ viewport: { width, height }, colorScheme: theme, deviceScaleFactor: scale, acceptDownloads: true, locale: "en-GB", reducedMotion: "reduce" });
  await context.grantPermissions(["clipboard-read", "clipboard-write"], { origin: new URL(url).origin });
  const page = await context.newPage();
  if (language) {
    await page.addInitScript((own) => Object.defineProperty(Navigator.prototype, "language", { get: () => own, configurable: true }), language);
  }
  page.setDefaultTimeout(Number(process.env.CORACLE_PATIENCE ?? 20_000));
  const errors = [];
  page.on("pageerror", (error) => errors.push(error.stack ?? String(error)));
  page.on("console", (message) => {
    // A refused request is the engine's answer, shown to the person; anything else is a fault of ours.
    if (message.type() === "error" && !message.text().startsWith("Failed to load resource")) errors.push(message.text());
  });
  await page.goto(url);
  return { browser, page, errors };
}

/** Serious and critical findings, in words. */
export async function accessible(page, where) {
  // The CSP refuses added scripts, rightly: axe comes in by the debugger instead.
  if (!(await page.evaluate("'axe' in window"))) {
    await page.evaluate(await readFile(axe, "utf8"));
  }
  const found = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  const bad = found.violations.filter((v) => v.impact === "serious" || v.impact === "critical");
  if (bad.length) {
    const words = bad.flatMap((v) => v.nodes.map((n) => `${v.id} (${v.impact}): ${n.html.slice(0, 160)} ${n.failureSummary?.split("\n").slice(1).join(" ")}`));
    throw new Error(`${where}: not accessible:\n${words.join("\n")}`);
  }
}

export const row = (page, name) => page.getByRole("row").filter({ has: page.getByText(name, { exact: true }) });
export const section = (page, name) => page.getByRole("navigation", { name: "Sections" }).getByRole("button", { name: new RegExp(`^${name}`) }).click();
export const tab = (page, name) => page.getByRole("tab", { name, exact: true }).click();

/** Waits until `ready` holds; for what belongs to other programs. */
export async function eventually(what, ready, limit = 20_000) {
  const end = Date.now() + limit;
  for (;;) {
    const value = await ready();
    if (value) return value;
    if (Date.now() > end) throw new Error(`${what}: not within ${limit} ms`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A `test` that keeps what the page showed where it fails, beside the other pictures; `page` is asked for it then. */
export const keeping = (page) => (name, steps) =>
  test(name, { skip: !!process.env.CORACLE_ONLY && !name.includes(process.env.CORACLE_ONLY) }, async () => {
    try {
      await steps();
    } catch (error) {
      console.log(`${name}: ${error.message.slice(0, 700)}`);
      const shot = `failed-${name.replaceAll(/\W+/g, "-").slice(0, 40)}.png`;
      if (process.env.CORACLE_SHOTS) await page().screenshot({ path: join(process.env.CORACLE_SHOTS, shot) });
      // What stays open would fail the next one as well.
      for (let n = 0; n < 3; n++) await page().keyboard.press("Escape");
      throw error;
    }
  });

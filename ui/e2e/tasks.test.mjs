// Five things that a person comes for, by mouse and by keyboard alone, with the clicks and keys that they take. The
// numbers are bounds: whoever makes a way longer sees it here.
import assert from "node:assert/strict";
import { mkdir, readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { coracle, docker, eventually, load, need, open, row } from "./lib.mjs";

const folder = need("CORACLE_FOLDER");
let browser;
let page;
let clicks = 0;

before(async () => {
  await coracle("start");
  await load(need("CORACLE_BUSYBOX"));
  await load(need("CORACLE_WELCOME"));
  await docker("run", "-d", "--name", "shop-db", "--stop-timeout", "0", "-v", "orders:/data", "busybox", "sh", "-c", "echo 17 > /data/total.txt; sleep 10000");
  await docker("run", "-d", "--name", "shop-web", "busybox", "sh", "-c", "echo starting; echo 'cannot reach payments' >&2; exit 3");
  const app = join(folder, "site");
  await mkdir(app, { recursive: true });
  await writeFile(join(app, "compose.yaml"), "services:\n  page:\n    image: coracle/welcome\n    stop_grace_period: 0s\n");
  ({ browser, page } = await open());
  await row(page, "shop-db").waitFor();
});
after(async () => {
  await docker("rm", "-f", "shop-db", "shop-web").catch(() => undefined);
  await browser?.close();
});

/** A click that counts. */
async function click(locator) {
  clicks += 1;
  await locator.first().click();
}
const button = (name) => page.getByRole("button", { name, exact: typeof name === "string" });
const task = (name, most, steps) =>
  test(name, async () => {
    clicks = 0;
    await steps();
    console.log(`${name}: ${clicks} clicks`);
    assert.ok(clicks <= most, `${clicks} clicks, at most ${most} were needed`);
  });

/** Keys, in a row, from wherever the focus is. */
async function keys(...list) {
  for (const key of list) {
    if (key.length > 1 && /^(Control\+|Shift\+)?[A-Z][A-Za-z]*$|^(Control|Shift)\+./.test(key)) await page.keyboard.press(key);
    else await page.keyboard.type(key);
    clicks += 1;
  }
}

task("why did shop-web stop? by mouse", 2, async () => {
  await click(row(page, "shop-web"));
  await click(page.getByRole("tab", { name: "Logs" }));
  await page.getByRole("log").getByText("cannot reach payments").waitFor();
  await page.getByRole("region", { name: "Container shop-web" }).getByText("stopped with code 3").waitFor();
});

task("why did shop-web stop? by keyboard", 3, async () => {
  await keys("Control+k", "shop-web logs", "Enter");
  await page.getByRole("log", { name: "Log of shop-web" }).getByText("cannot reach payments").waitFor();
});

task("run a web server and see its page, by mouse", 3, async () => {
  await click(button("Run"));
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await dialog.getByLabel("Image").fill("coracle/welcome");
  await eventually("its port is proposed", async () => (await dialog.getByLabel("Port in the container").inputValue().catch(() => "")) === "80");
  await click(dialog.getByRole("button", { name: "Run", exact: true }));
  const popup = page.waitForEvent("popup");
  await click(page.getByRole("region", { name: /^Container / }).getByRole("button", { name: /^Open :80\d\d$/ }));
  const opened = await popup;
  await opened.getByText("This page comes from a container").waitFor();
  await opened.close();
  await docker("rm", "-f", await docker("ps", "-lq"));
});

task("run a web server and see its page, by keyboard", 6, async () => {
  await page.locator("body").focus();
  await keys("n", "coracle/welcome");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await eventually("its port is proposed", async () => (await dialog.getByLabel("Port in the container").inputValue().catch(() => "")) === "80");
  await keys("Enter");
  const detail = page.getByRole("region", { name: /^Container / });
  await detail.getByText("running", { exact: true }).waitFor();
  const popup = page.waitForEvent("popup");
  await keys("Control+k", "open http", "Enter");
  const opened = await popup;
  await opened.getByText("This page comes from a container").waitFor();
  await opened.close();
  await docker("rm", "-f", await docker("ps", "-lq"));
});

task("get a file out of a volume, by mouse", 4, async () => {
  await click(page.getByRole("navigation", { name: "Sections" }).getByRole("button", { name: /^Volumes/ }));
  await click(row(page, "orders"));
  await click(page.getByRole("tab", { name: "Files" }));
  const download = page.waitForEvent("download");
  await click(button("Download total.txt"));
  assert.equal(await readFile(await (await download).path(), "utf8"), "17\n");
});

task("start a compose project of a folder and take it away, by mouse", 6, async () => {
  await click(page.getByRole("navigation", { name: "Sections" }).getByRole("button", { name: /^Containers/ }));
  await click(button("Compose"));
  await page.getByLabel("Folder", { exact: true }).fill(join(folder, "site"));
  await click(button("Choose"));
  await click(button("Start"));
  const project = page.getByRole("region", { name: "Project site" });
  await project.getByText("1 of 1 running").waitFor({ timeout: 60_000 });
  await click(button("Remove the project"));
  await click(page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }));
  await row(page, "site-page-1").waitFor({ state: "detached", timeout: 60_000 });
});

task("free what nobody needs, by mouse", 3, async () => {
  await click(page.getByRole("navigation", { name: "Sections" }).getByRole("button", { name: /^Activity/ }));
  await click(button("Free: Containers"));
  await click(page.getByRole("dialog").getByRole("button", { name: "Remove", exact: true }));
  await page.getByRole("status").filter({ hasText: "freed" }).first().waitFor();
  await eventually("what was stopped is gone", async () => (await docker("ps", "-aq", "--filter", "name=shop-web")) === "");
});

task("stop what runs and remove it, by keyboard", 6, async () => {
  await page.locator("body").focus();
  await keys("1");
  // The list is one stop of the Tab key: its rows are walked by arrows.
  await row(page, "shop-db").focus();
  await keys("s");
  await row(page, "shop-db").getByText("stopped").waitFor();
  await row(page, "shop-db").focus();
  await keys("Delete");
  await page.getByRole("dialog", { name: "Remove shop-db?" }).waitFor();
  await keys("Tab", "Enter");
  await row(page, "shop-db").waitFor({ state: "detached" });
});

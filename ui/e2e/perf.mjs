// Figures of the page (`cargo xtask test --full` runs it, and prints them): many containers and images, a long log, and
// what it costs to do nothing. CORACLE_CONTAINERS and CORACLE_IMAGES say how many.
import assert from "node:assert/strict";
import http from "node:http";

import { coracle, docker, eventually, load, need, open, row, section, tab } from "./lib.mjs";

const CONTAINERS = Number(process.env.CORACLE_CONTAINERS ?? 500);
const IMAGES = Number(process.env.CORACLE_IMAGES ?? 2000);
const LINES = Number(process.env.CORACLE_LINES ?? 1_000_000);
const socket = need("DOCKER_HOST").replace("unix://", "");

function request(method, path, body) {
  return new Promise((resolve, reject) => {
    const asked = http.request({ socketPath: socket, method, path, headers: body ? { "content-type": typeof body === "string" ? "application/json" : "application/x-tar" } : {} }, (answer) => {
      const parts = [];
      answer.on("data", (part) => parts.push(part));
      answer.on("end", () => (answer.statusCode < 400 ? resolve(Buffer.concat(parts).toString()) : reject(new Error(`${method} ${path}: ${answer.statusCode} ${Buffer.concat(parts)}`))));
    });
    asked.on("error", reject);
    asked.end(body);
  });
}
async function many(count, make) {
  let next = 0;
  await Promise.all(
    Array.from({ length: 8 }, async () => {
      while (next < count) await make(next++);
    }),
  );
}
/** Milliseconds that the page's main thread was busy in each second. */
async function busy(session, seconds) {
  const task = async () => (await session.send("Performance.getMetrics")).metrics.find((m) => m.name === "TaskDuration").value;
  const [began, at] = [await task(), Date.now()];
  await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  return ((await task()) - began) / ((Date.now() - at) / 1000) * 1000;
}

await coracle("start");
await load(need("CORACLE_BUSYBOX"));
console.log(`making ${IMAGES} images, ${CONTAINERS} containers and a log of ${LINES} lines`);
// An archive of one small file each, so that no two images are the same.
const head = (name) => {
  const block = Buffer.alloc(2048);
  block.write(name, 0);
  const put = (text, at) => block.write(text, at, "latin1");
  put("0000644", 100);
  put("0000000", 108);
  put("0000000", 116);
  put("00000000000", 124);
  put("00000000000", 136);
  put("        0", 148);
  put("ustar", 257);
  put("00", 263);
  put(`${block.subarray(0, 512).reduce((all, b) => all + b, 0).toString(8).padStart(6, "0")}\x00 `, 148);
  return block;
};
await many(IMAGES, (n) => request("POST", `/images/create?fromSrc=-&repo=many/image${n}&tag=1`, head(`file${n}`)));
await docker("run", "--name", "long", "busybox", "seq", String(LINES));
await many(CONTAINERS, async (n) => {
  const { Id } = JSON.parse(await request("POST", `/containers/create?name=many-${n}`, JSON.stringify({ Image: "busybox", Cmd: ["sleep", "100000"], HostConfig: { NetworkMode: "none" }, StopTimeout: 0 })));
  await request("POST", `/containers/${Id}/start`);
});

const { browser, page } = await open();
const figures = {};
try {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  await row(page, "many-0").waitFor();
  figures["first list after the page was opened, ms"] = Math.round(await page.evaluate(() => performance.now()));
  figures["rows in the page"] = await page.getByRole("row").count();
  await page.waitForTimeout(3000);
  figures["list of containers, nothing happens: busy ms/s"] = await busy(session, 10);
  await section(page, "Activity");
  await eventually("all of them tick", async () => (await page.getByText("Running containers").count()) > 0);
  await page.getByText(String(CONTAINERS), { exact: true }).first().waitFor();
  await page.waitForTimeout(5000);
  figures[`activity, ${CONTAINERS} stats tick: busy ms/s`] = await busy(session, 10);
  await section(page, "Images");
  await page.getByRole("row").nth(5).waitFor();
  figures[`list of ${IMAGES} images: rows in the page`] = await page.getByRole("row").count();
  const list = page.getByRole("grid", { name: "Images" });
  await list.hover();
  const scrolling = busy(session, 3);
  for (let n = 0; n < 40; n++) {
    await page.mouse.wheel(0, 2000);
    await page.waitForTimeout(50);
  }
  figures["scrolling through images: busy ms/s"] = await scrolling;
  await page.getByLabel("Filter images").fill(`image${IMAGES - 1}`);
  await row(page, `many/image${IMAGES - 1}:1`).waitFor();
  await section(page, "Containers");
  await page.getByLabel("Filter containers").fill("long");
  await row(page, "long").click();
  const opened = Date.now();
  await tab(page, "Logs");
  await page.getByRole("log").getByText(/^\d+$/).first().waitFor();
  figures[`log of ${LINES} lines, first screen: ms`] = Date.now() - opened;
  await page.getByText(`${LINES.toLocaleString("en-GB")} lines`).waitFor({ timeout: 60_000 });
  figures["all of it there: ms"] = Date.now() - opened;
  const asked = Date.now();
  await page.getByLabel("Search the log").fill(String(LINES - 1));
  await page.getByText(/^1 of \d/).waitFor();
  figures["searched, with typing's pause of 150 ms: ms"] = Date.now() - asked;
  await session.send("HeapProfiler.enable");
  await session.send("HeapProfiler.collectGarbage");
  figures["the page's heap, MB"] = (await session.send("Performance.getMetrics")).metrics.find((m) => m.name === "JSHeapUsedSize").value / 1e6;
} finally {
  await browser.close();
}
for (const [what, value] of Object.entries(figures)) console.log(`${what}: ${Number(value.toFixed(1))}`);
const ticks = figures[`activity, ${CONTAINERS} stats tick: busy ms/s`];
assert.ok(ticks <= 50 || process.env.CORACLE_SLOW, `the page is busy ${ticks} ms per second`);

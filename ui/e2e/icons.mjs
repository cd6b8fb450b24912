// The program's icons of every system, drawn from icons/icon.svg: `CORACLE_CHROMIUM=$(which chromium) node ui/e2e/icons.mjs`
// after a change of the drawing. Linux takes the drawing itself and icon.png, Windows icon.ico, macOS icon.icns.
import { readFile, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";

import { chromium } from "playwright-core";

const at = (name) => fileURLToPath(new URL(`../../src-tauri/icons/${name}`, import.meta.url));
const drawing = await readFile(at("icon.svg"), "utf8");
const browser = await chromium.launch({ executablePath: process.env.CORACLE_CHROMIUM, args: ["--no-sandbox"] });
const page = await browser.newPage();

/** The drawing as a PNG of so many pixels; on macOS with the room around it that icons have there. */
async function draw(pixels, room = 0) {
  const within = Math.round(pixels * (1 - 2 * room));
  await page.setViewportSize({ width: pixels, height: pixels });
  await page.setContent(`<style>*{margin:0}body{display:grid;place-items:center;width:${pixels}px;height:${pixels}px}svg{width:${within}px;height:${within}px}</style>${drawing}`);
  return page.screenshot({ omitBackground: true, type: "png" });
}

// https://learn.microsoft.com/windows/win32/menurc/newheader: a PNG for each size; 0 stands for 256.
const sizes = [16, 24, 32, 48, 64, 256];
const icons = await sizes.reduce(async (made, size) => [...(await made), await draw(size)], Promise.resolve([]));
const head = Buffer.alloc(6 + 16 * sizes.length);
head.writeUInt16LE(1, 2);
head.writeUInt16LE(sizes.length, 4);
let offset = head.length;
sizes.forEach((size, n) => {
  const entry = 6 + 16 * n;
  head.writeUInt8(size % 256, entry);
  head.writeUInt8(size % 256, entry + 1);
  head.writeUInt16LE(1, entry + 4);
  head.writeUInt16LE(32, entry + 6);
  head.writeUInt32LE(icons[n].length, entry + 8);
  head.writeUInt32LE(offset, entry + 12);
  offset += icons[n].length;
});
await writeFile(at("icon.ico"), Buffer.concat([head, ...icons]));

// "icns", its whole length, then for each picture its kind, length and bytes (iconutil's own kinds of PNGs).
const parts = [];
for (const [kind, size] of [["icp4", 16], ["icp5", 32], ["ic07", 128], ["ic08", 256], ["ic09", 512], ["ic10", 1024]]) {
  const bytes = await draw(size, 0.09);
  const length = Buffer.alloc(4);
  length.writeUInt32BE(bytes.length + 8);
  parts.push(Buffer.from(kind), length, bytes);
}
const length = Buffer.alloc(4);
length.writeUInt32BE(8 + parts.reduce((sum, part) => sum + part.length, 0));
await writeFile(at("icon.icns"), Buffer.concat([Buffer.from("icns"), length, ...parts]));
await writeFile(at("icon.png"), await draw(256));
await browser.close();

// Docker's context, as the stock CLI sees it: led here by the settings and given back, the rest of docker's
// configuration left alone.
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { promisify } from "node:util";

import { coracle, eventually, load, need, open, row, section } from "./lib.mjs";

let browser;
let page;

/** Docker as somebody has it in a terminal: nothing but its configuration says where it leads. */
async function docker(...args) {
  const { DOCKER_HOST: _host, DOCKER_CONTEXT: _context, ...env } = process.env;
  const { stdout } = await promisify(execFile)(need("DOCKER"), args, { env });
  return stdout.trim();
}
const config = async () => JSON.parse(await readFile(join(need("DOCKER_CONFIG"), "config.json"), "utf8"));
const box = () => page.getByLabel("docker in a terminal uses Coracle");

before(async () => {
  await coracle("start");
  await load(need("CORACLE_BUSYBOX"));
  ({ browser, page } = await open());
});
after(async () => {
  await browser?.close();
});

test("the context is there, and nobody is led to it unasked", async () => {
  assert.equal(await docker("context", "show"), "default");
  assert.match(await docker("context", "ls", "--format", "{{.Name}} {{.DockerEndpoint}}"), /^coracle unix:\/\/.*docker\.sock$/m);
  assert.match(await docker("--context", "coracle", "images", "-q"), /./);
  await section(page, "Settings");
  await box().waitFor();
  assert.equal(await box().isChecked(), false);
});

test("asked for, docker in a terminal leads here, and its configuration is otherwise as it was", async () => {
  await box().check();
  await eventually("docker knows", async () => (await docker("context", "show")) === "coracle");
  await docker("run", "-d", "--name", "from-a-terminal", "--stop-timeout", "0", "busybox", "sleep", "1000");
  await section(page, "Containers");
  await row(page, "from-a-terminal").getByText("running").waitFor();
  const { currentContext, ...rest } = await config();
  assert.equal(currentContext, "coracle");
  assert.deepEqual(rest, { auths: { "a.example:1": { auth: "dTpw" } }, psFormat: "x" });
  await docker("rm", "-f", "from-a-terminal");
});

test("what somebody says in a terminal is what the settings show", async () => {
  await docker("context", "use", "default");
  await section(page, "Settings");
  await box().waitFor();
  assert.equal(await box().isChecked(), false);
  await docker("context", "use", "coracle");
  await section(page, "Containers");
  await section(page, "Settings");
  await box().waitFor();
  assert.equal(await box().isChecked(), true);
});

test("given back, docker has its default again; another one that was chosen is left alone", async () => {
  await box().uncheck();
  await eventually("docker knows", async () => (await docker("context", "show")) === "default");
  assert.deepEqual(await config(), { auths: { "a.example:1": { auth: "dTpw" } }, psFormat: "x" });
  await box().check();
  await eventually("docker knows", async () => (await docker("context", "show")) === "coracle");
  await docker("context", "create", "elsewhere", "--docker", "host=unix:///nowhere.sock");
  await docker("context", "use", "elsewhere");
  // The settings still show what they read: taking the mark away changes nothing of somebody else's choice.
  await box().uncheck();
  await eventually("it is shown", async () => !(await box().isChecked()));
  assert.equal(await docker("context", "show"), "elsewhere");
});

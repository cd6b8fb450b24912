// Images and volumes of another engine: a second one runs beside ours, and docker's context `other` leads to it.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { accessible, coracle, docker, need, open, section } from "./lib.mjs";

let browser;
let page;
let errors;
const other = (...args) => docker("-H", need("CORACLE_OTHER"), ...args);

before(async () => {
  await coracle("start");
  // What no one but this test made.
  await other("tag", "busybox", "registry.example.com/team/tool:1.2");
  for (const volume of ["data", "kept"]) await other("run", "--rm", "-v", `${volume}:/v`, "busybox", "sh", "-c", "mkdir /v/a && echo theirs >/v/a/file && chown 12:34 /v/a/file");
  await docker("volume", "create", "kept");
  ({ browser, page, errors } = await open());
});
after(async () => {
  await browser?.close();
});

test("images and volumes of another engine come, and what is here stays", async () => {
  await section(page, "Settings");
  await page.getByRole("button", { name: "Import…" }).click();
  const dialog = page.getByRole("dialog", { name: "Import from another engine" });
  await dialog.getByText("Looking for other engines…").waitFor({ state: "detached" });
  const engines = dialog.getByLabel("Engine", { exact: true });
  const label = (await engines.locator("option").allTextContents()).find((text) => text.startsWith("other ("));
  assert.ok(label, await engines.textContent());
  await engines.selectOption({ label });
  await accessible(page, "import");
  // A name that is taken here is not offered.
  assert.ok(await dialog.getByLabel("kept").isDisabled());
  await dialog.getByText("here already").waitFor();
  await dialog.getByLabel("registry.example.com/team/tool:1.2").check();
  await dialog.getByLabel("data").check();
  await dialog.getByRole("button", { name: "Import 2" }).click();
  await page.getByRole("status").filter({ hasText: "2 things imported" }).waitFor();

  const id = (engine) => engine("image", "inspect", "-f", "{{.Id}}", "registry.example.com/team/tool:1.2");
  assert.equal(await id(docker), await id(other));
  const file = await docker("run", "--rm", "-v", "data:/v", "registry.example.com/team/tool:1.2", "sh", "-c", "cat /v/a/file; stat -c %u:%g /v/a/file");
  assert.equal(file, "theirs\n12:34");
  // Nothing is left of the way: neither there nor here.
  for (const engine of [docker, other]) {
    assert.equal(await engine("ps", "-aq"), "");
    assert.ok(!(await engine("images")).includes("coracle/files"));
  }
  assert.deepEqual(errors, []);
});

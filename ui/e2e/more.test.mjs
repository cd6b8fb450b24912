// The second story: builds, compose, registries, many at once, files of what does not run, what is going on.
import assert from "node:assert/strict";
import { mkdir, readdir, readFile, stat, writeFile } from "node:fs/promises";
import { gunzipSync, gzipSync } from "node:zlib";
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
  ({ browser, page, errors } = await open());
});
after(async () => {
  await browser?.close();
});

const test = keeping(() => page);
const button = (name) => page.getByRole("button", { name, exact: true });
const dialog = (name) => page.getByRole("dialog", { name });
const status = (text) => page.getByRole("status").filter({ hasText: text });
const menu = async (name) => {
  await button("More actions").click();
  await page.getByRole("menuitem", { name }).click();
};
const forgetNotes = () => page.evaluate(() => document.querySelectorAll('[aria-label="Dismiss"]').forEach((b) => b.click()));

test("a build from a folder, its steps, and its history", async () => {
  const app = join(folder, "app");
  await mkdir(app, { recursive: true });
  await writeFile(join(app, "Dockerfile"), "FROM busybox\nARG WHO=nobody\nRUN echo hello $WHO > /greeting && echo it is written\nCMD cat /greeting\n");
  await section(page, "Builds");
  await page.getByText("No builds yet").waitFor();
  await accessible(page, "no builds");
  await button("Build an image").click();
  const form = dialog("Build an image");
  await form.getByLabel("Folder", { exact: true }).fill("relative");
  await form.getByText(/A folder’s whole path/).waitFor();
  await form.getByLabel("Folder", { exact: true }).fill(join(folder, "nothing-here"));
  await form.getByText(/No such file or directory/).waitFor();
  await form.getByLabel("Folder", { exact: true }).fill(app);
  await eventually("the Dockerfile is found", async () => (await form.getByLabel("Dockerfile").inputValue()) === "Dockerfile");
  await form.getByLabel("Name of the image").fill("made-here:1");
  await form.getByText("More", { exact: true }).click();
  await button("Argument").click();
  await form.getByLabel("Name of the argument").fill("WHO");
  await form.getByLabel("Value of the argument").fill("world");
  await form.getByText(`docker build -t made-here:1 --build-arg WHO=world ${app}`).waitFor();
  await accessible(page, "build dialog");
  await form.getByRole("button", { name: "Build", exact: true }).click();
  await status("made-here:1 built").first().waitFor({ timeout: 60_000 });
  const detail = page.getByRole("region", { name: "Build of made-here:1" });
  await detail.getByRole("button", { name: /RUN echo hello/ }).click();
  await detail.getByText("it is written", { exact: true }).waitFor();
  await accessible(page, "a build");
  assert.equal(await docker("run", "--rm", "made-here:1"), "hello world");
  // The engine remembers it, and those of docker as well.
  await page.getByRole("row").filter({ hasText: "done" }).first().click();
  await page.getByRole("region", { name: /^Build / }).getByRole("button", { name: /RUN echo hello/ }).waitFor();
  await accessible(page, "a remembered build");
  await tab(page, "Inspect");
  await page.getByText(/"Status"|"status"/i).first().waitFor();
  await tab(page, "Steps");
});

test("a build that fails says why, in its step", async () => {
  const app = join(folder, "broken");
  await mkdir(app, { recursive: true });
  await writeFile(join(app, "Dockerfile"), "FROM busybox\nRUN echo '<img src=x onerror=window.hacked=1>' && exit 7\n");
  await button("Build").click();
  await dialog("Build an image").getByLabel("Folder", { exact: true }).fill(app);
  await eventually("the Dockerfile is found", async () => (await dialog("Build an image").getByLabel("Dockerfile").inputValue()) === "Dockerfile");
  await dialog("Build an image").getByRole("button", { name: "Build", exact: true }).click();
  const failed = page.getByRole("alert").filter({ hasText: "It could not be built" });
  await failed.getByText(/exit code: 7/).waitFor({ timeout: 60_000 });
  await page.getByLabel(/^What .* said$/).getByText("<img src=x").waitFor();
  assert.equal(await page.evaluate(() => window.hacked), undefined);
  await accessible(page, "a failed build");
  await forgetNotes();
});

test("a build is cancelled", async () => {
  const app = join(folder, "slow");
  await mkdir(app, { recursive: true });
  await writeFile(join(app, "Dockerfile"), "FROM busybox\nRUN echo begun && sleep 600\n");
  await button("Build").click();
  await dialog("Build an image").getByLabel("Folder", { exact: true }).fill(app);
  await eventually("the Dockerfile is found", async () => (await dialog("Build an image").getByLabel("Dockerfile").inputValue()) === "Dockerfile");
  await dialog("Build an image").getByRole("button", { name: "Build", exact: true }).click();
  await page.getByText("begun", { exact: true }).waitFor({ timeout: 60_000 });
  await button("Operations").or(page.getByTitle("Operations")).first().click();
  await dialog("Operations").getByRole("button", { name: /^Cancel Build of/ }).click();
  await dialog("Operations").getByText(/^cancelled/).waitFor();
  await accessible(page, "operations");
  await button("Clear what is over").click();
  await dialog("Operations").getByRole("button", { name: "Close" }).last().click();
});

test("compose: a project from a folder, its services, its logs, its end", async () => {
  const shop = join(folder, "shop");
  await mkdir(shop, { recursive: true });
  await writeFile(
    join(shop, "compose.yaml"),
    `services:
  web:
    image: busybox
    stop_grace_period: 0s
    command: sh -c 'echo web speaks; exec sleep 1000'
  db:
    image: busybox
    stop_grace_period: 0s
    command: sh -c 'echo db speaks; exec sleep 1000'
    volumes: ["data:/data"]
volumes:
  data:
`,
  );
  await section(page, "Containers");
  await button("Compose").click();
  await page.getByLabel("Folder", { exact: true }).fill(folder);
  await button("Choose").click();
  await status(/There is no compose file in/).first().waitFor();
  await forgetNotes();
  await button("Compose").click();
  await page.getByLabel("Folder", { exact: true }).fill(shop);
  await button("Choose").click();
  await page.getByLabel("Name of the project").fill("Bad Name");
  await page.getByText(/Small letters, digits/).waitFor();
  await page.getByLabel("Name of the project").fill("shop");
  await button("Start").click();
  await row(page, "shop-web-1").getByText("running").waitFor({ timeout: 60_000 });
  const project = page.getByRole("region", { name: "Project shop" });
  await project.getByText("2 of 2 running").waitFor();
  await accessible(page, "project");
  await tab(page, "Logs");
  await page.getByRole("log").getByText("web speaks").waitFor();
  await page.getByRole("log").getByText("db speaks").waitFor();
  await page.getByRole("log").getByText("shop-db-1").waitFor();
  await accessible(page, "project logs");
  await tab(page, "Configuration");
  await page.getByLabel("Configuration", { exact: true }).getByText(/working_dir|stop_grace_period/).waitFor();
  await tab(page, "Services");
  await button("Stop web").click();
  await project.getByText("1 of 2 running").waitFor();
  await button("Start all").click();
  await project.getByText("2 of 2 running").waitFor();
  const before = await docker("inspect", "-f", "{{.State.StartedAt}}", "shop-web-1");
  await button("Restart all").click();
  await eventually("it was started again", async () => (await docker("inspect", "-f", "{{.State.StartedAt}}", "shop-web-1")) !== before);
  await project.getByText("2 of 2 running").waitFor();
  await project.getByRole("button", { name: "Scale…" }).last().click();
  await page.getByLabel("Containers", { exact: true }).last().fill("2");
  await button("Scale").click();
  await row(page, "shop-web-2").getByText("running").waitFor();
  await button("Remove the project").click();
  await dialog(/Remove the project shop/).getByLabel(/Also remove its volumes/).check();
  await dialog(/Remove the project shop/).getByRole("button", { name: "Remove", exact: true }).click();
  await row(page, "shop-web-1").waitFor({ state: "detached", timeout: 60_000 });
  await eventually("all of it is gone", async () => (await docker("volume", "ls", "-q", "--filter", "name=shop")) === "");
});

test("what compose refuses is said in its words", async () => {
  const bad = join(folder, "bad");
  await mkdir(bad, { recursive: true });
  await writeFile(join(bad, "compose.yaml"), "services:\n  web:\n    imagination: busybox\n");
  await button("Compose").click();
  await page.getByLabel("Folder", { exact: true }).fill(bad);
  await button("Choose").click();
  await button("Start").click();
  await status(/Compose could not do it/).getByText(/imagination/).first().waitFor();
  await dialog("Operations").getByRole("button", { name: "Close" }).last().click();
  await forgetNotes();
});

test("many at once: marked by keys and by mouse", async () => {
  for (const n of [1, 2, 3, 4]) await docker("run", "-d", "--name", `many${n}`, "--stop-timeout", "0", "busybox", "sleep", "1000");
  await row(page, "many1").focus();
  await page.keyboard.press("Space");
  await page.keyboard.press("Shift+ArrowDown");
  await page.getByText("2 marked").waitFor();
  await page.getByLabel("Mark many4").click();
  await page.getByText("3 marked").waitFor();
  await accessible(page, "marked");
  await button("Stop all marked").click();
  for (const n of [1, 2, 4]) await row(page, `many${n}`).getByText("stopped").waitFor();
  await row(page, "many3").getByText("running").waitFor();
  await button("Remove all marked").click();
  await dialog(/Remove 3 containers/).getByRole("button", { name: "Remove", exact: true }).click();
  await row(page, "many1").waitFor({ state: "detached" });
  assert.equal(await docker("ps", "-a", "--format", "{{.Names}}", "--filter", "name=many"), "many3");
});

test("a container gets another name, limits, and becomes an image", async () => {
  await row(page, "many3").click();
  await menu("Rename…");
  await page.getByLabel("Name", { exact: true }).fill("no spaces");
  await page.getByText(/the first a letter or digit/).waitFor();
  await page.getByLabel("Name", { exact: true }).fill("single");
  await button("Rename").click();
  await row(page, "single").waitFor();
  await menu("Limits and restarts…");
  await page.getByLabel("Memory").fill("1k");
  await page.getByText(/At least 6m/).waitFor();
  await page.getByLabel("Memory").fill("");
  await page.getByRole("combobox", { name: "Restart" }).selectOption("unless-stopped");
  await accessible(page, "limits");
  await button("Apply").click();
  await eventually("the policy is there", async () => (await docker("inspect", "-f", "{{.HostConfig.RestartPolicy.Name}}", "single")) === "unless-stopped");
  await docker("exec", "single", "sh", "-c", "echo kept > /kept");
  await menu("Make an image of it…");
  await page.getByLabel("Name and tag").fill("snapshot:1");
  await button("Make it").click();
  await status("snapshot:1 made").first().waitFor();
  assert.equal(await docker("run", "--rm", "snapshot:1", "cat", "/kept"), "kept");
  const file = join(folder, "single.tar");
  await menu("Export its files…");
  await page.getByLabel("File", { exact: true }).fill(file);
  await button("Save").click();
  await status("single exported").first().waitFor();
  assert.ok((await stat(file)).size > 100_000);
});

test("files of a container that does not run", async () => {
  await docker("stop", "-t", "0", "single");
  await row(page, "single").getByText("stopped").waitFor();
  await tab(page, "Files");
  await page.getByRole("button", { name: /^kept / }).click();
  await page.getByRole("region", { name: "Preview of kept" }).getByText("kept").last().waitFor();
  await page.getByRole("button", { name: /^bin / }).click();
  await page.getByRole("button", { name: /^busybox / }).waitFor();
  await accessible(page, "files of a stopped container");
  await docker("rm", "-f", "single");
});

test("volumes: files, export, import, clone", async () => {
  await docker("volume", "create", "notes");
  await docker("run", "--rm", "-v", "notes:/v", "busybox", "sh", "-c", "mkdir /v/deep; echo inside > /v/deep/note.txt; echo '<b>x</b>' > '/v/<b>bold'");
  await section(page, "Volumes");
  await row(page, "notes").click();
  await tab(page, "Files");
  await page.getByRole("button", { name: /^<b>bold/ }).waitFor();
  await page.getByRole("button", { name: /^deep / }).click();
  await page.getByRole("button", { name: /^note.txt/ }).click();
  await page.getByRole("region", { name: "Preview of note.txt" }).getByText("inside").waitFor();
  const up = join(folder, "up.txt");
  await writeFile(up, "from outside");
  await page.getByLabel("Files to upload").setInputFiles(up);
  await page.getByRole("button", { name: /^up.txt/ }).waitFor();
  await accessible(page, "files of a volume");
  assert.equal(await docker("run", "--rm", "-v", "notes:/v", "busybox", "cat", "/v/deep/up.txt"), "from outside");
  await tab(page, "Overview");
  const file = join(folder, "notes.tar");
  await menu("Export its files…");
  await page.getByLabel("File", { exact: true }).fill(file);
  await button("Save").click();
  await status("notes exported").first().waitFor();
  await button("Make a volume of an exported one").click();
  await page.getByLabel("Archive").fill(file);
  await page.getByLabel("Name", { exact: true }).fill("restored");
  await button("Make it").click();
  await row(page, "restored").waitFor();
  await eventually("the files are in it", async () => (await docker("run", "--rm", "-v", "restored:/v", "busybox", "cat", "/v/deep/note.txt").catch(() => "")) === "inside");
  await row(page, "notes").click();
  await menu("Clone…");
  await button("Clone").click();
  await status("notes cloned").first().waitFor();
  assert.equal(await docker("run", "--rm", "-v", "notes-copy:/v", "busybox", "cat", "/v/deep/note.txt"), "inside");
  // What helped is gone, and was in no list.
  await eventually("helpers go", async () => (await docker("ps", "-aq", "--filter", "label=dev.coracle.helper")) === "");
  await row(page, "notes").click({ modifiers: ["ControlOrMeta"] });
  await row(page, "restored").click({ modifiers: ["ControlOrMeta"] });
  await row(page, "notes-copy").click({ modifiers: ["ControlOrMeta"] });
  await button("Remove all marked").click();
  await button("Remove the volumes").click();
  await row(page, "restored").waitFor({ state: "detached" });
  assert.equal(await docker("volume", "ls", "-q"), "");
});

test("volumes: a snapshot is taken and given back", async () => {
  await docker("run", "-d", "--name", "keeper", "--stop-timeout", "0", "-v", "kept:/v", "busybox", "sh", "-c", "echo before > /v/state; sleep 1000");
  await eventually("it has written", async () => (await docker("exec", "keeper", "cat", "/v/state").catch(() => "")) === "before");
  await section(page, "Volumes");
  await row(page, "kept").click();
  const card = page.getByRole("region", { name: "Volume kept" });
  await card.getByText(/^None\. A snapshot keeps/).waitFor();
  await button("Take a snapshot…").click();
  await page.getByLabel("Name", { exact: true }).fill("../up");
  await page.getByText(/Two or more letters/).waitFor();
  await page.getByLabel("Name", { exact: true }).fill("good");
  await button("Take it").click();
  await card.getByRole("cell", { name: "good", exact: true }).waitFor();
  await docker("exec", "keeper", "sh", "-c", "echo after > /v/state; echo more > /v/more");
  // Who runs with it is named, and nothing is exchanged below them.
  await card.getByText("To give one back, stop keeper first.").waitFor();
  assert.ok(await card.getByRole("button", { name: "Give back" }).isDisabled());
  await docker("stop", "keeper");
  await card.getByRole("button", { name: "Give back" }).click();
  await dialog("Give good back to the volume?").getByRole("button", { name: "Give it back" }).click();
  await status("kept has the files of good again").first().waitFor();
  assert.equal(await docker("run", "--rm", "-v", "kept:/v", "busybox", "sh", "-c", "cat /v/state; ls /v"), "before\nstate");
  await accessible(page, "snapshots");
  await card.getByRole("button", { name: "Remove the snapshot good" }).click();
  await dialog("Remove the snapshot good?").getByRole("button", { name: "Remove", exact: true }).click();
  await card.getByText(/^None\. A snapshot keeps/).waitFor();
  await docker("rm", "-f", "keeper");
  await docker("volume", "rm", "kept");
});

test("images: saved, loaded, imported, pushed", async () => {
  await section(page, "Images");
  await row(page, "made-here:1").click();
  const file = join(folder, "made.tar");
  await menu("Save as an archive…");
  await page.getByLabel("File", { exact: true }).fill("not/whole.tar");
  await page.getByText(/A whole path/).waitFor();
  await page.getByLabel("File", { exact: true }).fill(file);
  await button("Save").click();
  await status("Saved").first().waitFor();
  await docker("rmi", "made-here:1");
  await row(page, "made-here:1").waitFor({ state: "detached" });
  await button("Load").click();
  await page.getByLabel("File", { exact: true }).fill(join(folder, "none.tar"));
  await button("Choose").click();
  await status("none.tar could not be loaded").getByText(/No such file/).first().waitFor();
  await forgetNotes();
  await button("Load").click();
  await page.getByLabel("File", { exact: true }).fill(file);
  await button("Choose").click();
  await row(page, "made-here:1").waitFor();
  await button("More with images").click();
  await page.getByRole("menuitem", { name: /^Import/ }).click();
  await page.getByRole("textbox", { name: "Archive" }).fill(join(folder, "single.tar"));
  await page.getByLabel("Name and tag").fill("imported:1");
  await button("Import").click();
  await row(page, "imported:1").waitFor();
  await row(page, "made-here:1").click();
  await menu("Push…");
  await page.getByLabel("Name and tag").fill(`${REGISTRY}/team/made:1`);
  await button("Push").click();
  await status(`${REGISTRY}/team/made:1 pushed`).first().waitFor();
  const tags = await (await fetch(`http://${REGISTRY}/v2/team/made/tags/list`)).json();
  assert.deepEqual(tags.tags, ["1"]);
  await accessible(page, "images");
});

test("images: a registry's newer one is found and pulled", async () => {
  const name = `${REGISTRY}/team/moves:1`;
  await docker("tag", "busybox", name);
  await docker("push", "-q", name);
  await section(page, "Images");
  await button("More with images").click();
  await page.getByRole("menuitem", { name: "Look for newer images" }).click();
  await status("No newer images").first().waitFor();
  // Somebody else pushes another one under that name.
  await docker("run", "--name", "other", "busybox", "true");
  await docker("commit", "other", name);
  await docker("push", "-q", name);
  await docker("rmi", name);
  await docker("tag", "busybox", name);
  await row(page, "busybox:latest").or(row(page, name)).first().click();
  await menu("Look for a newer one");
  await status("1 image has a newer one").first().waitFor();
  await page.getByText(`The registry has a newer ${name}.`).waitFor();
  await accessible(page, "a newer image");
  await button("Pull it").click();
  await dialog("Pull an image").getByRole("button", { name: "Pull", exact: true }).click();
  await page.getByText(`${name} pulled`).waitFor();
  await page.getByText(`The registry has a newer ${name}.`).waitFor({ state: "detached" });
  await docker("rm", "other");
  await docker("rmi", name);
  await forgetNotes();
});

test("images: what each layer holds, as text and nothing else", async () => {
  await docker("run", "--name", "writes", "busybox", "sh", "-c", "echo one > /kept; echo two > /gone; echo three > '/<b>three'");
  await docker("commit", "writes", "layered:1");
  await docker("run", "--name", "removes", "layered:1", "sh", "-c", "rm /gone; ln -s /kept /link");
  await docker("commit", "removes", "layered:2");
  await section(page, "Images");
  await row(page, "layered:2").click();
  await tab(page, "Layers");
  const files = page.getByRole("list", { name: "Files of the layer" });
  const layer = (n) => page.getByRole("button", { name: /^Files of / }).nth(n);
  await layer(0).click();
  await files.getByText("/link → /kept", { exact: true }).waitFor();
  await files.getByRole("listitem").filter({ hasText: "/gone" }).getByText("removed").waitFor();
  assert.equal(await files.getByRole("listitem").count(), 2);
  await accessible(page, "layers");
  await layer(1).click();
  await files.getByText("/<b>three", { exact: true }).waitFor();
  await page.getByRole("searchbox", { name: "Filter files" }).fill("KEPT");
  await files.getByText("/<b>three", { exact: true }).waitFor({ state: "detached" });
  assert.equal(await files.getByRole("listitem").count(), 1);
  await layer(1).click();
  await files.waitFor({ state: "detached" });
  await docker("rm", "writes", "removes");
  await docker("rmi", "layered:1", "layered:2");
});

test("registries: signed in, kept where docker keeps it, signed out", async () => {
  await section(page, "Settings");
  await page.getByText("You are signed in nowhere").waitFor();
  await button("Sign in…").click();
  const form = dialog("Sign in to a registry");
  await form.getByLabel("Registry").fill("not a host");
  await form.getByLabel("User").fill("me");
  await form.getByRole("button", { name: "Sign in", exact: true }).click();
  await form.getByText(/A host, such as/).waitFor();
  await form.getByText("It is needed").waitFor();
  await form.getByLabel("Registry").fill("127.0.0.1:9");
  await form.getByLabel("Password or token").fill("secret");
  await form.getByRole("button", { name: "Sign in", exact: true }).click();
  await form.getByRole("alert").filter({ hasText: /refused|connect/ }).waitFor();
  await accessible(page, "sign in");
  await form.getByLabel("Registry").fill(REGISTRY);
  await form.getByRole("button", { name: "Sign in", exact: true }).click();
  await page.getByRole("cell", { name: REGISTRY }).waitFor();
  const config = JSON.parse(await readFile(join(need("DOCKER_CONFIG"), "config.json"), "utf8"));
  assert.equal(Buffer.from(config.auths[REGISTRY].auth, "base64").toString(), "me:secret");
  await button("Sign out").click();
  await page.getByText("You are signed in nowhere").waitFor();
});

test("settings of the engine: lists, the whole text, and what is wrong with them", async () => {
  await section(page, "Settings");
  const card = page.getByRole("region", { name: "Engine’s settings" });
  const keep = card.getByRole("button", { name: "Save" });
  const file = join(folder, "c/engine.json");
  await card.getByLabel("Mirrors").fill("mirror.example.com");
  await card.getByText(/is no URL/).waitFor();
  assert.ok(await keep.isDisabled());
  await card.getByLabel("Mirrors").fill("https://mirror.example.com");
  await card.getByLabel("Without TLS").fill("r.example.com:5000, 10.0.0.0/8");
  await keep.click();
  await card.getByText("Acts after a restart.").waitFor();
  await card.locator("summary").click();
  const text = card.getByLabel("All settings of the engine");
  assert.deepEqual(JSON.parse(await readFile(file, "utf8")), { "registry-mirrors": ["https://mirror.example.com"], "insecure-registries": ["r.example.com:5000", "10.0.0.0/8"] });
  await text.fill("[1]");
  await card.getByText(/It is one object/).waitFor();
  assert.ok(await keep.isDisabled());
  await text.fill('{"debug": true, "insecure-registries": ["x:1"]}');
  assert.equal(await card.getByLabel("Without TLS").inputValue(), "x:1");
  await accessible(page, "settings of the engine");
  await text.fill("");
  await keep.click();
  await eventually("the file is gone", async () => !(await readFile(file).catch(() => undefined)));
});

test("certificates are taken and given up", async () => {
  const card = page.getByRole("region", { name: "Certificates" });
  const wrong = join(folder, "wrong.crt");
  await writeFile(wrong, "hello");
  const add = async (path) => {
    await card.getByRole("button", { name: "Add a certificate…" }).click();
    await page.getByLabel("File", { exact: true }).fill(path);
    await button("Choose").click();
  };
  await add(wrong);
  await status("The certificate could not be taken").getByText(/no certificate in PEM/).first().waitFor();
  await forgetNotes();
  const own = join(folder, "company.crt");
  await writeFile(own, "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
  await add(own);
  await card.getByText("company.pem").waitFor();
  await accessible(page, "certificates");
  await card.getByRole("button", { name: "Remove the certificate company.pem" }).click();
  await dialog("No longer trust company.pem?").getByRole("button", { name: "Remove", exact: true }).click();
  await card.getByText("company.pem").waitFor({ state: "detached" });
});

test("activity: what runs, what is on the disk", async () => {
  await docker("run", "-d", "--name", "busy", "--stop-timeout", "0", "busybox", "sh", "-c", "while :; do :; done");
  await section(page, "Activity");
  await page.getByRole("listitem").filter({ hasText: "busy" }).getByText(/%/).waitFor();
  await page.getByRole("cell", { name: "Images", exact: true }).waitFor();
  await page.getByRole("figure", { name: /^Processor: [\d.]+ %/ }).waitFor();
  await accessible(page, "activity");
  await docker("rm", "-f", "busy");
  await page.getByText("Nothing runs").waitFor();
});

test("diagnostics have what helps, and no secrets", async () => {
  await section(page, "Settings");
  const file = join(folder, "diagnostics.tar.gz");
  await button("Write diagnostics…").click();
  await page.getByLabel("File", { exact: true }).fill(file);
  await page.getByRole("dialog").getByRole("button", { name: "Save", exact: true }).click();
  await status("Diagnostics written").first().waitFor();
  const text = gunzipSync(await readFile(file)).toString("latin1");
  for (const name of ["coracle/versions.txt", "coracle/settings.txt", "coracle/daemon.log", "coracle/engine-info.json"]) assert.ok(text.includes(name), name);
  assert.ok(text.includes("driver=local"));
});

test("a link leads to its place", async () => {
  await docker("run", "-d", "--name", "linked", "busybox", "sleep", "1000");
  await page.evaluate(() => window.dispatchEvent(new CustomEvent("coracle-go", { detail: "containers/linked/logs" })));
  await page.getByRole("log", { name: "Log of linked" }).waitFor();
  await page.evaluate(() => window.dispatchEvent(new CustomEvent("coracle-go", { detail: "javascript:alert(1)/x" })));
  await page.getByRole("log", { name: "Log of linked" }).waitFor();
  await docker("rm", "-f", "linked");
});

test("everything is deleted when a person says so", async () => {
  await docker("run", "-d", "--name", "last", "busybox", "sleep", "1000");
  const pid = await docker("inspect", "-f", "{{.State.Pid}}", "last");
  await section(page, "Settings");
  await button("Delete everything…").click();
  await accessible(page, "reset");
  await dialog("Delete everything?").getByRole("button", { name: "Delete everything", exact: true }).click();
  await status("Everything was deleted").first().waitFor({ timeout: 60_000 });
  assert.equal(JSON.parse(await coracle("status", "--json").catch((e) => e.stdout)).state, "stopped");
  await assert.rejects(stat(join(need("CORACLE_HOME"), "data")));
  assert.throws(() => process.kill(Number(pid), 0), "the container is gone as well");
});

test("a machine that can't be made says what is missing, and how to get it", async () => {
  // After the reset the settings are the first ones: a machine, of which there is no image here.
  await section(page, "Containers");
  await button("Start the engine").click();
  const alert = page.getByRole("alert").filter({ hasText: /is missing|is too old/ });
  await alert.getByRole("button", { name: "Start again" }).waitFor({ timeout: 60_000 });
  await alert.getByRole("button", { name: "Copy the command" }).waitFor();
  await accessible(page, "something is missing");
});

test("each trouble has its own screen with a way out", async () => {
  const troubles = [
    ["image", "The machine’s image is missing", "Start again"],
    ["disk_full", "This computer’s disk is full", "Start again"],
    ["version", "Another version of Coracle is running", "Restart the engine"],
    ["engine", "The engine does not run", "Start again"],
    ["kernel_panic", "The machine’s kernel panicked", "Start again"],
    ["something_new", "The engine could not be started", "Start again"],
  ];
  for (const [code, title, way] of troubles) {
    const context = await browser.newContext({ viewport: { width: 1280, height: 800 } });
    const other = await context.newPage();
    // The daemon's words are ours here: a full disk and a panic are not made for real in this test.
    await other.routeWebSocket(/\/open$/, (socket) => {
      socket.onMessage((text) => {
        if (!String(text).includes('"machine"')) return;
        const error = { code, status: null, message: `<b>said by the daemon</b> ${code}` };
        const machine = { state: "failed", driver: "qemu", accel: null, accel_note: null, socket: "/run/x.sock", daemon: "1 (a)", guest: null, app: "1 (b)", other_build: false, error };
        socket.send(JSON.stringify({ message: "machine", machine }));
      });
    });
    await other.goto(url);
    const alert = other.getByRole("alert").filter({ hasText: title });
    await alert.getByText(`<b>said by the daemon</b> ${code}`).waitFor();
    await alert.getByRole("button", { name: way }).waitFor();
    await alert.getByRole("button", { name: "Settings and logs" }).waitFor();
    await accessible(other, title);
    await context.close();
  }
});

test("the page is small: at most 200 kB gzip without terminal and charts", async () => {
  const assets = join(import.meta.dirname, "../dist/assets");
  let total = 0;
  for (const name of await readdir(assets)) {
    if (!/^(xterm|addon-|uPlot)/.test(name)) total += gzipSync(await readFile(join(assets, name))).length;
  }
  console.log(`the page has ${Math.round(total / 1000)} kB`);
  assert.ok(total < 200_000, `${total} bytes`);
});

test("no fault was seen in the browser on the way", () => {
  assert.deepEqual(errors, []);
});

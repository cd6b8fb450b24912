// Pictures of every screen in both themes, of an engine with something in it: into CORACLE_SHOTS.
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";

import { coracle, docker, load, need, open, row, section, tab, url } from "./lib.mjs";

const only = process.env.CORACLE_ONLY;
const folder = process.env.CORACLE_SHOTS ?? "screenshots";
await mkdir(folder, { recursive: true });

async function each(name, steps) {
  if (only && !name.startsWith(only)) return;
  for (const theme of ["light", "dark"]) {
    const { browser, page } = await open({ theme });
    try {
      await steps(page, (part) => page.screenshot({ path: join(folder, `${name}${part ? `-${part}` : ""}-${theme}.png`) }));
    } finally {
      await browser.close();
    }
  }
}
const settle = (page) => page.waitForTimeout(400);

await each("engine-stopped", async (page, shot) => {
  await page.getByText("The engine is stopped").waitFor();
  await shot();
});
await coracle("start");
await load(need("CORACLE_WELCOME"));
await each("welcome", async (page, shot) => {
  await page.getByRole("button", { name: "Run the first container" }).waitFor();
  await shot();
});

await load(need("CORACLE_BUSYBOX"));
const compose = (project, service) => ["--label", `com.docker.compose.project=${project}`, "--label", `com.docker.compose.service=${service}`];
await docker("network", "create", "shop_default");
await docker("volume", "create", "shop_data");
await docker("tag", "coracle/welcome", "shop/web:1.4");
await docker("tag", "busybox", "shop/worker:1.4");
await docker("run", "-d", "--name", "shop-web-1", "-p", "8080:80", "--network", "shop_default", "--network-alias", "web", "-e", "DATABASE_URL=postgres://db/shop", "-v", "shop_data:/data", "--restart", "unless-stopped", ...compose("shop", "web"), "shop/web:1.4");
const talk = `i=0; while true; do i=$((i+1)); echo "GET /api/orders/$((i*7%997)) 200 $((i%40+3)) ms"; [ $((i%9)) = 0 ] && echo "WARN slow query: orders took $((i%300+200)) ms" >&2; usleep 90000; done`;
await docker("run", "-d", "--name", "shop-worker-1", "--network", "shop_default", "--stop-timeout", "0", ...compose("shop", "worker"), "shop/worker:1.4", "sh", "-c", talk);
await docker("run", "-d", "--name", "shop-mailer-1", "--stop-timeout", "0", ...compose("shop", "mailer"), "shop/worker:1.4", "sh", "-c", "exit 3");
await docker("run", "-d", "--name", "welcome", "-p", "8081:80", "coracle/welcome");
await docker("run", "-d", "--name", "docs", "--stop-timeout", "0", "busybox", "sleep", "10000");
await docker("pause", "docs");
await docker("run", "--name", "backup", "busybox", "true");

await each("containers", async (page, shot) => {
  await row(page, "shop-web-1").click();
  await page.getByText("DNS").first().waitFor({ timeout: 500 }).catch(() => undefined);
  await settle(page);
  await shot("overview");
  await row(page, "shop-worker-1").click();
  await tab(page, "Logs");
  await page.getByLabel("Search the log").fill("slow");
  await page.waitForTimeout(2500);
  await shot("logs");
  await tab(page, "Terminal");
  await page.locator(".xterm-accessibility").getByText("#").first().waitFor();
  await page.keyboard.type("ls -l /\n");
  await settle(page);
  await shot("terminal");
  await tab(page, "Files");
  await page.getByRole("button", { name: /^etc/ }).click();
  await page.getByRole("button", { name: /^hosts/ }).click();
  await settle(page);
  await shot("files");
  await page.getByRole("button", { name: "Edit", exact: true }).click();
  await page.keyboard.type("# changed\n");
  await docker("exec", "shop-worker-1", "sh", "-c", "echo 10.0.0.9 other >> /etc/hosts");
  await page.getByRole("button", { name: "Save", exact: true }).click();
  await page.getByRole("alert").waitFor();
  await settle(page);
  await shot("edit");
  await page.getByRole("button", { name: "Discard", exact: true }).click();
  await tab(page, "Stats");
  await page.waitForTimeout(9000);
  await shot("stats");
  await tab(page, "Inspect");
  await settle(page);
  await shot("inspect");
  await row(page, "shop-mailer-1").click();
  await tab(page, "Logs");
  await settle(page);
  await shot("ended");
  await row(page, "shop-web-1").click({ button: "right" });
  await settle(page);
  await shot("row-menu");
  await page.keyboard.press("Escape");
  await page.keyboard.press("f");
  await page.locator("#filter").fill("nothing");
  await settle(page);
  await shot("nothing-matches");
});
await each("run", async (page, shot) => {
  await row(page, "welcome").waitFor();
  await page.locator("body").press("n");
  const dialog = page.getByRole("dialog", { name: "Run a container" });
  await dialog.getByLabel("Image").fill("shop/web:1.4");
  await dialog.getByLabel("Name", { exact: true }).fill("-web");
  await dialog.getByRole("button", { name: "Variable", exact: true }).click();
  await dialog.getByLabel("Name of the variable").fill("LOG_LEVEL");
  await dialog.getByLabel("Value of the variable").fill("debug");
  await page.waitForTimeout(900);
  await shot();
  await dialog.getByText("More", { exact: true }).click();
  await settle(page);
  await shot("more");
});
await each("images", async (page, shot) => {
  await section(page, "Images");
  await row(page, "shop/web:1.4").or(row(page, "coracle/welcome:latest")).first().click();
  await settle(page);
  await shot();
  await page.getByRole("button", { name: "Pull", exact: true }).click();
  await page.getByRole("dialog").getByLabel("Image", { exact: true }).fill("127.0.0.1:9/none");
  await page.getByRole("dialog").getByRole("button", { name: "Pull", exact: true }).click();
  await page.getByRole("alert").waitFor();
  await settle(page);
  await shot("pull-failed");
});
await each("volumes", async (page, shot) => {
  await section(page, "Volumes");
  await row(page, "shop_data").click();
  await settle(page);
  await shot();
});
await each("networks", async (page, shot) => {
  await section(page, "Networks");
  await row(page, "shop_default").click();
  await settle(page);
  await shot();
});
const app = join(need("CORACLE_FOLDER"), "orders");
await mkdir(app, { recursive: true });
await writeFile(join(app, "Dockerfile"), "FROM busybox AS base\nWORKDIR /app\nCOPY . .\nRUN echo compiling && sleep 1 && echo 214 modules compiled\nFROM base\nARG VERSION=dev\nRUN echo $VERSION > /version\nCMD cat /version\n");
await writeFile(join(app, "broken.Dockerfile"), "FROM busybox\nWORKDIR /app\nRUN echo linking && echo 'orders.c:17: undefined reference to total' >&2 && exit 2\n");
const build = async (page, name, file) => {
  await writeFile(join(app, "stamp"), String(Date.now()));
  await page.keyboard.press("Escape");
  await page.getByRole("button", { name: "Build", exact: true }).or(page.getByRole("button", { name: "Build an image" })).first().click();
  const dialog = page.getByRole("dialog", { name: "Build an image" });
  await dialog.getByLabel("Folder", { exact: true }).fill(app);
  await page.waitForTimeout(500);
  await dialog.getByLabel("Name of the image").fill(name);
  if (file) await dialog.getByLabel("Dockerfile").fill(file);
  await settle(page);
  return dialog;
};
await each("builds", async (page, shot) => {
  await section(page, "Builds");
  await settle(page);
  const dialog = await build(page, "shop/orders:2.0");
  await dialog.getByText("More", { exact: true }).click();
  await settle(page);
  await shot("dialog");
  await dialog.getByRole("button", { name: "Build", exact: true }).click();
  await page.waitForTimeout(900);
  await shot("running");
  await page.getByText("shop/orders:2.0 built").first().waitFor();
  await page.getByRole("button", { name: /RUN echo compiling/ }).click();
  await settle(page);
  await shot("done");
  const again = await build(page, "shop/orders:broken", "broken.Dockerfile");
  await again.getByRole("button", { name: "Build", exact: true }).click();
  await page.getByText("It could not be built").waitFor();
  await settle(page);
  await shot("failed");
  await page.getByRole("row").filter({ hasText: "done" }).first().click();
  await page.waitForTimeout(1500);
  await shot("history");
});
await each("project", async (page, shot) => {
  await page.getByTitle("The project as a whole").click();
  await settle(page);
  await shot("services");
  await tab(page, "Logs");
  await page.waitForTimeout(1500);
  await shot("logs");
});
await each("marked", async (page, shot) => {
  await row(page, "welcome").click({ modifiers: ["ControlOrMeta"] });
  await row(page, "docs").click({ modifiers: ["ControlOrMeta"] });
  await row(page, "shop-web-1").hover();
  await settle(page);
  await shot();
});
await each("activity", async (page, shot) => {
  await section(page, "Activity");
  await page.waitForTimeout(9000);
  await shot();
});
await each("operations", async (page, shot) => {
  await section(page, "Images");
  await page.getByRole("button", { name: "Pull", exact: true }).click();
  await page.getByRole("dialog").getByLabel("Image", { exact: true }).fill("127.0.0.1:9/none");
  await page.getByRole("dialog").getByRole("button", { name: "Pull", exact: true }).click();
  await page.getByRole("alert").waitFor();
  await page.keyboard.press("Escape");
  await page.getByTitle("Operations").click();
  await settle(page);
  await shot();
});
await each("limits", async (page, shot) => {
  await row(page, "welcome").click();
  await page.getByRole("button", { name: "More actions" }).click();
  await settle(page);
  await shot("menu");
  await page.getByRole("menuitem", { name: "Limits and restarts…" }).click();
  await settle(page);
  await shot();
});
await each("sign-in", async (page, shot) => {
  await section(page, "Settings");
  await page.getByRole("button", { name: "Sign in…" }).click();
  await page.getByRole("dialog").getByLabel("Registry").fill("not a host");
  await page.getByRole("dialog").getByRole("button", { name: "Sign in", exact: true }).click();
  await settle(page);
  await shot();
});
await each("volume-files", async (page, shot) => {
  await docker("exec", "shop-web-1", "sh", "-c", "mkdir -p /data/orders && echo '{\"total\": 17}' > /data/orders/1.json && cp /bin/busybox /data/tool").catch(() => undefined);
  await section(page, "Volumes");
  await row(page, "shop_data").click();
  await tab(page, "Files");
  await settle(page);
  await shot();
});
await each("zoom", async (page, shot) => {
  // 200 % of 1280 x 800.
  await page.setViewportSize({ width: 640, height: 400 });
  await row(page, "shop-web-1").waitFor();
  await settle(page);
  await shot("list");
  await row(page, "shop-web-1").click();
  await settle(page);
  await shot("detail");
  await page.locator("body").press("n");
  await settle(page);
  await shot("run");
});
await each("settings", async (page, shot) => {
  await section(page, "Settings");
  await settle(page);
  await shot();
  for (const name of ["Engine’s settings", "Look"]) {
    await page.getByRole("region", { name, exact: true }).scrollIntoViewIfNeeded();
    await shot(name.split("’")[0].toLowerCase());
  }
});
await each("palette", async (page, shot) => {
  await row(page, "shop-web-1").click();
  await page.keyboard.press("Control+k");
  await page.keyboard.type("shop");
  await settle(page);
  await shot();
});
await each("confirm", async (page, shot) => {
  await row(page, "welcome").click();
  await page.keyboard.press("Delete");
  await page.getByRole("dialog").waitFor();
  await settle(page);
  await shot();
});
await each("narrow", async (page, shot) => {
  await page.setViewportSize({ width: 700, height: 600 });
  await row(page, "shop-web-1").waitFor();
  await settle(page);
  await shot("list");
  await row(page, "shop-web-1").click();
  await settle(page);
  await shot("detail");
});
await each("trouble", async (page, shot) => {
  // In the daemon's place: none of this is made for real here.
  let error;
  await page.routeWebSocket(/\/open$/, (socket) => {
    socket.onMessage((text) => {
      if (!String(text).includes('"machine"')) return;
      const machine = { state: "failed", driver: "qemu", accel: null, accel_note: null, socket: "/run/x.sock", daemon: "1 (a)", guest: null, app: "1 (b)", other_build: false, error };
      socket.send(JSON.stringify({ message: "machine", machine }));
    });
  });
  for (const [code, message] of [
    ["image", "the guest's image is not complete: no root.erofs in /usr/lib/coracle/share/coracle/guest/amd64"],
    ["disk_full", "the file system of /home/me/.coracle has no room left"],
    ["version", "the daemon speaks version 3, this program 4"],
    ["engine", "the engine does not run: exit status: 1: coracle-engine: engine.json: EOF while parsing an object at line 1 column 1"],
  ]) {
    error = { code, status: null, message };
    await page.goto("about:blank");
    await page.goto(url);
    await page.getByRole("alert").getByText(message).waitFor();
    await settle(page);
    await shot(code);
  }
});
await each("network-map", async (page, shot) => {
  await section(page, "Networks");
  await row(page, "shop_default").waitFor();
  await settle(page);
  await shot();
});
await each("import", async (page, shot) => {
  await section(page, "Settings");
  await page.getByRole("button", { name: "Import…" }).click();
  await page.getByRole("dialog").waitFor();
  await settle(page);
  await shot();
});
await each("image-layers", async (page, shot) => {
  await section(page, "Images");
  await row(page, "coracle/welcome:latest").click();
  await tab(page, "Layers");
  await settle(page);
  await shot();
});
await each("empty", async (page, shot) => {
  await section(page, "Volumes");
  await page.locator("#filter").fill("none of these");
  await settle(page);
  await shot("volumes");
  await section(page, "Containers");
  await row(page, "backup").click();
  for (const name of ["Terminal", "Stats", "Files"]) {
    await tab(page, name);
    await page.waitForTimeout(900);
    await shot(name.toLowerCase());
  }
});
await each("many", async (page, shot) => {
  await docker("create", "--name", `a-container-with-a-name-that-is-rather-long-and-goes-on-${Date.now()}`, "-l", "x=y", "busybox", "sh", "-c", "echo a command that is long as well; sleep 100");
  const long = page.getByRole("row").filter({ hasText: "a-container-with-a-name" }).first();
  await long.click();
  await settle(page);
  await shot();
});

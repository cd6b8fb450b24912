import { buildName, counted, none, record, take } from "./build";
import { registryOf } from "./paths";
import { limits, restartWords } from "./limits";
import { whereItRuns } from "./machine";
import { History, hottest, parts, percent, steady } from "./usage";
import { offsets, part } from "./window";
import { describe, expect, it } from "vitest";

import type { Container, ImageDetail } from "../docker/client";
import { endWords, groups, matches, published, status, touched } from "./containers";
import { entries, listOf, withList, wrongList, wrongText } from "./engine-settings";
import { editable, edited, frames, join, listing, preview, replaced, tar, untar } from "./files";
import { ago, quote, size, span, words } from "./format";
import { translation, usable } from "./language";
import { fraction, nothing, progress, reference } from "./pull";
import { blank, body, check, envFile, fromImage, line, memory, service } from "./run";
import { sample } from "./stats";
import { topology } from "./topology";

const container = (over: object) => ({ Id: "a".repeat(64), Names: ["/x"], Labels: {}, State: "exited", ...over }) as Container;

describe("languages", () => {
  it("are those that numbers can be written in", () => {
    expect(["de-DE", "en", "C", "", undefined].map(usable)).toEqual(["de-DE", "en", "en-US", "en-US", "en-US"]);
  });
  it("are the first of a person's that there are texts in", () => {
    const there = ["de", "pt"];
    expect(translation(["de-AT", "en"], there)).toBe("de");
    expect(translation(["fr-FR", "pt-BR", "de"], there)).toBe("pt");
    expect(translation(["en-GB", "de"], there)).toBeUndefined();
    expect(translation(["fr"], there)).toBeUndefined();
    expect(translation(["de"], [])).toBeUndefined();
  });
});

describe("words", () => {
  it("sizes are Docker's", () => {
    expect([0, 999, 1000, 1_234_567, 99_960_000, 2e12].map(size)).toEqual(["0 B", "999 B", "1.0 kB", "1.2 MB", "100 MB", "2.0 TB"]);
    expect(size(-1)).toBe("–");
  });
  it("times are in the largest unit", () => {
    expect([1, 59, 60, 7200, 86_400 * 3].map(span)).toEqual(["1 second", "59 seconds", "1 minute", "2 hours", "3 days"]);
    expect(ago("0001-01-01T00:00:00Z")).toBe("never");
    expect(ago(1000, 1_000_000 + 120_000)).toBe("2 minutes ago");
  });
  it("a command line is taken apart as a shell does, and put together so that one reads the same", () => {
    for (const list of [["sh", "-c", "echo 'a b' $X"], ["a'b", "", "ö", "x\\y"]]) {
      expect(words(list.map(quote).join(" "))).toEqual({ words: list });
    }
    expect(words(`echo "a \\"b" c\\ d`)).toEqual({ words: ["echo", 'a "b', "c d"] });
    expect(words("echo 'a")).toHaveProperty("error");
  });
});

describe("containers", () => {
  it("states have words", () => {
    const of = (State: string, Status = "") => status(container({ State, Status }));
    expect(of("running", "Up 3 minutes")).toEqual({ word: "running", tone: "running" });
    expect(of("running", "Up 3 minutes (unhealthy)").tone).toBe("error");
    expect(of("exited", "Exited (0) 1 minute ago")).toEqual({ word: "stopped", tone: "stopped" });
    expect(of("exited", "Exited (3) 1 minute ago")).toEqual({ word: "stopped with code 3", tone: "error" });
    expect(of("exited", "Exited (137) 1 minute ago").tone).toBe("stopped");
    expect(status(container({}), "stopping")).toEqual({ word: "stopping", tone: "busy" });
  });
  it("a port of both families is one, and udp is no page", () => {
    const ports = published([
      { IP: "0.0.0.0", PrivatePort: 80, PublicPort: 8080, Type: "tcp" },
      { IP: "::", PrivatePort: 80, PublicPort: 8080, Type: "tcp" },
      { PrivatePort: 443, Type: "tcp" },
      { IP: "10.0.0.1", PrivatePort: 53, PublicPort: 53, Type: "udp" },
    ]);
    expect(ports.map((p) => [p.host, p.url])).toEqual([
      [53, undefined],
      [8080, "http://localhost:8080/"],
    ]);
  });
  it("projects are groups, what runs comes first", () => {
    const of = (n: string, State: string, project?: string) =>
      container({ Names: [`/${n}`], State, Labels: project ? { "com.docker.compose.project": project } : {} });
    const found = groups([of("z", "running"), of("b", "exited", "shop"), of("a", "exited"), of("c", "running", "shop")]);
    expect(found.map((g) => [g.project, g.containers.map((c) => c.Names?.[0])])).toEqual([
      ["shop", ["/c", "/b"]],
      [undefined, ["/z", "/a"]],
    ]);
  });
  it("a search has all its words somewhere", () => {
    expect(matches("WEB ngi", "web-1", "nginx:latest")).toBe(true);
    expect(matches("web redis", "web-1", "nginx")).toBe(false);
    expect(matches("", "x")).toBe(true);
  });
  it("events that no list shows refresh none", () => {
    expect(touched({ Type: "container", Action: "exec_start: sh" })).toEqual([]);
    expect(touched({ Type: "container", Action: "die" })).toEqual(["containers"]);
    expect(touched({ Type: "image", Action: "pull" })).toContain("images");
  });
});

describe("run", () => {
  const detail = {
    Config: { ExposedPorts: { "80/tcp": {}, "53/udp": {}, "8053/tcp": {} }, Volumes: { "/data": {} } },
  } as unknown as ImageDetail;
  it("an image fills the form: ports that are free and allowed, volumes", () => {
    const form = fromImage("web", detail, [8080]);
    expect(form.ports.map((p) => [p.host, p.container, p.protocol])).toEqual([
      ["8053", "53", "udp"],
      ["8081", "80", "tcp"],
      ["8054", "8053", "tcp"],
    ]);
    expect(form.mounts).toEqual([{ source: "", target: "/data", readonly: false }]);
    expect(check(form)).toEqual({});
  });
  it("what is wrong is said at its field", () => {
    const form = { ...blank("a b"), name: "-x", command: "echo 'x", memory: "1m", cpus: "many", workdir: "x" };
    form.ports = [{ host: "99999", container: "80", protocol: "tcp" }, { host: "", container: "x", protocol: "tcp" }];
    form.env = [{ name: "A=B", value: "" }];
    form.mounts = [{ source: "a/b", target: "/d", readonly: false }, { source: "", target: "d", readonly: false }];
    expect(Object.keys(check(form)).sort()).toEqual(
      ["command", "cpus", "env-0", "image", "memory", "mount-0", "mount-1", "name", "port-0", "port-1", "workdir"].sort(),
    );
    expect(check({ ...blank("x"), name: "web" }, ["web"]).name).toMatch(/already/);
    expect(check({ ...blank("x"), remove: true, restart: "always" }).restart).toBeTruthy();
  });
  it("request and line say the same", () => {
    const form = fromImage("web:1", { Config: { ExposedPorts: { "80/tcp": {} } } } as unknown as ImageDetail);
    Object.assign(form, { name: "w", command: "sh -c 'echo $A'", memory: "1.5g", cpus: "0.5", restart: "always", network: "n" });
    form.env = [{ name: "A", value: "b c" }];
    form.mounts = [{ source: "/srv", target: "/d", readonly: true }];
    expect(line(form)).toBe(
      "docker run -d --name w -p 8080:80 -e 'A=b c' -v /srv:/d:ro --network n --restart always -m 1.5g --cpus 0.5 web:1 sh -c 'echo $A'",
    );
    const made = body(form);
    expect(made.Cmd).toEqual(["sh", "-c", "echo $A"]);
    expect(made.HostConfig).toMatchObject({
      PortBindings: { "80/tcp": [{ HostPort: "8080" }] },
      Binds: ["/srv:/d:ro"],
      Memory: 1_610_612_736,
      NanoCpus: 500_000_000,
      NetworkMode: "n",
    });
  });
  it("sizes of memory, files of variables", () => {
    expect([memory("512m"), memory("1.5G"), memory("x")]).toEqual([536_870_912, 1_610_612_736, undefined]);
    expect(envFile("# a\nexport A=1\nB='x y'\nnothing\n C = =d")).toEqual([
      { name: "A", value: "1" },
      { name: "B", value: "x y" },
      { name: "C", value: " =d" },
    ]);
  });
});

describe("pull", () => {
  it("layers add up to a whole", () => {
    let pull = nothing();
    for (const said of [
      { status: "Pulling from library/x", id: "latest" },
      { id: "a", status: "Downloading", progressDetail: { current: 50, total: 100 } },
      { id: "b", status: "Downloading", progressDetail: { current: 0, total: 100 } },
    ]) {
      pull = progress(pull, JSON.stringify(said));
    }
    expect(fraction(pull)).toBe(0.25);
    pull = progress(pull, JSON.stringify({ id: "a", status: "Pull complete", progressDetail: {} }));
    expect(fraction(pull)).toBe(0.5);
    expect(progress(pull, "no json")).toBe(pull);
    expect(progress(pull, '{"error":"denied"}').error).toBe("denied");
  });
  it("references", () => {
    expect(reference("nginx")).toEqual({ name: "nginx", tag: "latest" });
    expect(reference("localhost:5000/a/b:1.2")).toEqual({ name: "localhost:5000/a/b", tag: "1.2" });
    expect(reference(`x@sha256:${"a".repeat(64)}`)?.tag).toBe(`sha256:${"a".repeat(64)}`);
    for (const bad of ["", "a b", "x?y", "x:", "x@sha256:12", "<b>"]) expect(reference(bad)).toBeUndefined();
  });
});

describe("files", () => {
  it("ls of busybox and of coreutils", () => {
    const text = `total 12
drwxr-xr-x    2 0        0             4096 Nov 21 12:00 etc
-rw-r--r--    1 0        0               11 Nov 21 12:00 a file
lrwxrwxrwx 1 0 0 7 Jan  2  2025 sh -> busybox
crw-rw-rw- 1 0 0 1, 3 Nov 21 12:00 null
`;
    expect(listing(text).map((e) => [e.name, e.kind, e.size, e.target])).toEqual([
      ["etc", "folder", 4096, null],
      ["a file", "file", 11, null],
      ["null", "other", 1, null],
      ["sh", "link", 7, "busybox"],
    ]);
  });
  it("paths", () => {
    expect([join("/", "etc"), join("/a/b", ".."), join("/", ".."), join("/a", "b/c")]).toEqual(["/etc", "/a", "/", "/a/b/c"]);
  });
  it("a file goes into an archive and comes out, with a long name as well", () => {
    const bytes = new TextEncoder().encode("hello");
    for (const name of ["x", "ö".repeat(90)]) expect(untar(tar(name, bytes))).toEqual(bytes);
    expect(untar(new Uint8Array(1024))).toBeUndefined();
  });
  it("frames of an exec", () => {
    const bytes = new Uint8Array([1, 0, 0, 0, 0, 0, 0, 2, 104, 105, 2, 0, 0, 0, 0, 0, 0, 1, 33]);
    expect(frames(bytes)).toEqual({ out: "hi", err: "!" });
    expect(frames(bytes.subarray(0, 9))).toEqual({ out: "h", err: "" });
  });
  it("a picture that could hold a script is text", () => {
    expect(preview("x.svg", new TextEncoder().encode("<svg onload=1>")).kind).toBe("text");
    expect(preview("x.bin", new Uint8Array([1, 0, 2])).kind).toBe("none");
  });
});

describe("a file that is edited", () => {
  const bytes = (text: string) => new TextEncoder().encode(text);
  const text = (all: Uint8Array | undefined) => new TextDecoder().decode(all);
  it("keeps its name, owner and mode; its time is now", () => {
    const long = `${"n".repeat(120)}.txt`;
    for (const name of ["a.txt", long]) {
      const packed = tar(name, bytes("before"));
      // As the engine sends it: another owner and mode.
      const head = packed.subarray(name === long ? 1024 : 0);
      head.set(bytes("0000750\0"), 100);
      head.set(bytes("0001750\0"), 108);
      const now = replaced(packed, bytes("after, and longer than it was"), 1_700_000_000_000);
      expect(text(untar(now ?? new Uint8Array()))).toBe("after, and longer than it was");
      const fresh = (now ?? new Uint8Array()).subarray(name === long ? 1024 : 0);
      expect([text(fresh.subarray(100, 107)), text(fresh.subarray(108, 115)), Number.parseInt(text(fresh.subarray(136, 147)), 8)]).toEqual(["0000750", "0001750", 1_700_000_000]);
      const sum = fresh.slice(0, 512).fill(32, 148, 156).reduce((all, b) => all + b, 0);
      expect(Number.parseInt(text(fresh.subarray(148, 154)), 8)).toBe(sum);
      if (name === long) expect(text(now)).toContain(`path=${long}`);
    }
    expect(replaced(new Uint8Array(1024), bytes("x"))).toBeUndefined();
  });
  it("keeps attributes, and says nothing of its old size and time", () => {
    const record = (words: string) => `${words.length + 4} ${words}\n`;
    const pax = bytes(record("mtime=1.25") + record("SCHILY.xattr.user.a=b") + record("size=6"));
    const head = tar("pax", pax).subarray(0, 1024);
    head[156] = 120;
    const packed = new Uint8Array([...head, ...tar("a.txt", bytes("before"))]);
    const now = text(replaced(packed, bytes("after")));
    expect(now).toContain("SCHILY.xattr.user.a=b");
    expect(now).not.toMatch(/mtime=|size=/);
    expect(text(untar(bytes(now)))).toBe("after");
  });
  it("has its own line ends afterwards, or is not edited", () => {
    for (const whole of ["a\nb\n", "a\r\nb\r\n", "", "one", "\ufeffmarked\n", "äöü ✓"]) {
      const found = editable(bytes(whole));
      if ("why" in found) throw new Error(found.why);
      expect(found.text).not.toContain("\r");
      expect(edited(found.text, found.crlf)).toEqual(bytes(whole));
    }
    for (const mixed of [bytes("a\r\nb\n"), bytes("old\rmac"), new Uint8Array([0xff, 0x41])]) expect(editable(mixed)).toHaveProperty("why");
  });
});

describe("where the engine runs", () => {
  const machine = (driver: string, accel: string | null = null, accel_note: string | null = null) => whereItRuns({ driver, accel, accel_note });
  it("is said without a technical word; what is slow says why, and what to do", () => {
    for (const runs of [machine("local"), machine("wsl"), machine("vfkit"), machine("krunkit"), machine("qemu"), machine("qemu", "kvm"), machine("qemu", "tcg")]) {
      expect(runs.words).not.toMatch(/tcg|kvm|qemu|vfkit/i);
      expect(runs.words).not.toBe("");
    }
    const slow = machine("qemu", "tcg", "/dev/kvm: Permission denied.");
    expect([slow.words.includes("slow"), slow.why, slow.next?.includes("/dev/kvm")]).toEqual([true, "/dev/kvm: Permission denied", true]);
  });
});

describe("names of builds", () => {
  it("are those that the engine's history gives them", () => {
    expect([buildName("/home/me/orders", "", ""), buildName("/home/me/orders/", "Dockerfile", ""), buildName("/x/orders", "broken.Dockerfile", ""), buildName("/x/orders", "", "test"), buildName("C:\\x\\orders", "", "")]).toEqual(["orders", "orders", "orders/broken.Dockerfile", "orders (test)", "orders"]);
  });
});

describe("ends", () => {
  it("are said with their code and why", () => {
    const now = Date.parse("2026-01-01T00:01:00Z");
    const said = (state: Parameters<typeof endWords>[0]) => endWords(state && { FinishedAt: "2026-01-01T00:00:00Z", ...state }, now);
    expect(said({ Status: "exited", ExitCode: 3 })).toBe("It ended 1 minute ago with code 3.");
    expect(said({ Status: "exited", ExitCode: 137, OOMKilled: true })).toBe("It ended 1 minute ago with code 137, for want of memory.");
    expect(said({ Status: "exited", ExitCode: 143 })).toBe("It ended 1 minute ago with code 143, stopped.");
    expect([said({ Status: "running" }), said(undefined), said({ Status: "created" })]).toEqual(["", "", "It was never started."]);
  });
});

describe("orders and rights", () => {
  it("containers are sorted by what a person chose, within their projects", () => {
    const made = (Name: string, Created: number, Image: string, State = "running") => ({ Id: Name, Names: [`/${Name}`], Created, Image, State });
    const all = [made("b", 1, "x"), made("a", 2, "y"), made("c", 3, "w", "exited")] as Parameters<typeof groups>[0];
    const by = (order?: Parameters<typeof groups>[1]) => groups(all, order)[0]?.containers.map((c) => c.Id).join("");
    expect([by(), by("newest"), by("image")]).toEqual(["abc", "cab", "cba"]);
  });
  it("capabilities are checked, sent, and in the line", () => {
    const form = { ...blank("busybox"), caps: "net_admin, SYS_PTRACE" };
    expect(check(form).caps).toBeUndefined();
    expect(body(form).HostConfig.CapAdd).toEqual(["NET_ADMIN", "SYS_PTRACE"]);
    expect(line(form)).toContain("--cap-add NET_ADMIN --cap-add SYS_PTRACE");
    expect(service(form)).toContain('cap_add: ["NET_ADMIN","SYS_PTRACE"]');
    expect(check({ ...form, caps: "net admin; rm" }).caps).toContain("ADMIN;");
    expect(body(blank("busybox")).HostConfig.CapAdd).toBeUndefined();
  });
});

describe("limits", () => {
  it("are said in words, and where there is none as well", () => {
    expect(limits({}).map((l) => [l.what, l.says, l.set])).toEqual([["Memory", "no limit", false], ["Processors", "no limit", false], ["Processes", "no limit", false]]);
    const says = (host: Parameters<typeof limits>[0]) => limits(host).map((l) => l.says);
    expect(says({ Memory: 512_000_000, MemorySwap: 1_024_000_000, NanoCpus: 1.5e9, PidsLimit: 1000 })).toEqual(["512 MB, 512 MB of swap", "1.5", "1,000"]);
    expect(says({ Memory: 512_000_000, MemorySwap: -1, CpuQuota: 50_000, CpuPeriod: 100_000, PidsLimit: -1 })).toEqual(["512 MB, swap without a limit", "0.5", "no limit"]);
    expect(says({ Memory: 512_000_000, MemorySwap: 512_000_000, CpusetCpus: "0-1" })).toEqual(["512 MB, no swap", "only number 0-1", "no limit"]);
  });
  it("a restart policy is said in words", () => {
    const says = (Name: string, MaximumRetryCount = 0) => restartWords({ RestartPolicy: { Name, MaximumRetryCount } } as Parameters<typeof restartWords>[0]);
    expect([says(""), says("always"), says("on-failure"), says("on-failure", 1), says("on-failure", 5), restartWords({ AutoRemove: true })]).toEqual(["never", "always", "when it fails", "when it fails, once", "when it fails, up to 5 times", "never; it is removed when it ends"]);
  });
});

describe("use", () => {
  it("what could be freed is what a prune takes, by each choice", () => {
    const found = parts(
      {
        LayersSize: 9,
        Containers: [{ SizeRw: 3, State: "exited" }, { SizeRw: 7, State: "running" }, { SizeRw: 5, State: "restarting" }, { SizeRw: 0, State: "created" }],
        Volumes: [{ Name: "used", UsageData: { Size: 4, RefCount: 1 } }, { Name: "free", UsageData: { Size: 2, RefCount: 0 } }, { Name: "elsewhere", Options: { type: "nfs" }, UsageData: { Size: 8, RefCount: 0 } }],
        BuildCache: [{ Size: 6, InUse: false, Shared: false }, { Size: 5, InUse: true, Shared: false }, { Size: 100, InUse: false, Shared: true }],
      },
      { unnamed: { Count: 1, SpaceReclaimable: 2 }, unused: { Count: 3, SpaceReclaimable: 8 } },
    );
    expect(found.map((p) => [p.what, p.size, ...p.choices.map((c) => [c.bytes, c.count])])).toEqual([
      ["images", 9, [2, 1], [8, 3]],
      ["containers", 15, [3, 2]],
      ["volumes", 14, [2, 1]],
      ["builds", 11, [6, 1]],
    ]);
    // An engine that can't tell promises nothing.
    expect(parts({ LayersSize: 9 })[0]?.choices).toEqual([]);
  });
  it("a processor's share is one number wherever it is shown", () => {
    expect([steady([]), steady([100]), steady([900, 100, 100, 100, 100, 100]), percent(0.04), percent(9.96), percent(199.6)]).toEqual([0, 100, 100, "0.0 %", "10 %", "200 %"]);
  });
  it("rates and sums of what comes each second", () => {
    const use = { cpu: 50, memory: 10, limit: 100, received: 0, sent: 0, read: 0, written: 0, processes: 1 };
    const history = new History();
    history.take(1000, { a: use, b: { ...use, cpu: 100 } });
    history.take(2000, { a: { ...use, received: 500, sent: 500 } });
    expect(history.now().map((r) => [r.id, r.network, r.steady])).toEqual([["a", 1000, 50]]);
    expect(history.sums().map((s) => s.cpu)).toEqual([150, 50]);
    expect(hottest(history.now(), { at: 2, cpu: 150, memory: 10 }, { cpus: 2, memory: 1000 }, (id) => id)).toContain("a most of all");
  });
});

describe("long lists", () => {
  it("only what is seen is in the page, whatever the heights", () => {
    const at = offsets(2000, (i) => (i % 100 ? 44 : 74));
    for (const top of [0, 5000, 40_000, 1e9]) {
      const seen = part(at, top, 600);
      expect(seen.end - seen.first).toBeLessThan(40);
      expect(seen.above + seen.below + (at[seen.end] ?? 0) - (at[seen.first] ?? 0)).toBe(at.at(-1));
    }
    expect(part(offsets(150, () => 44), 0, 100)).toEqual({ first: 0, end: 150, above: 0, below: 0 });
    expect(part(offsets(0, () => 44), 0, 100).end).toBe(0);
  });
});

describe("builds", () => {
  it("steps, their lines in pieces, what failed and what is no progress", () => {
    const text = (s: string) => btoa(s);
    let now = take(none(), [
      JSON.stringify({ vertexes: [{ digest: "a", name: "[1/2] FROM x", started: "2026-01-01T00:00:00Z" }] }),
      JSON.stringify({ logs: [{ vertex: "a", data: text("hel") }, { vertex: "a", data: text("lo\n\u001b[31mred\u001b[0m") }, { vertex: "none", data: text("x") }] }),
      "ERROR: failed",
      "{broken",
      "null",
    ]);
    expect(now.steps[0]?.lines).toEqual(["hello", "red"]);
    expect(now.rest).toEqual(["ERROR: failed", "{broken"]);
    now = take(now, [JSON.stringify({ vertexes: [{ digest: "a", name: "[1/2] FROM x", started: "2026-01-01T00:00:00Z", completed: "2026-01-01T00:00:01Z", error: "exit code: 1" }] })]);
    expect(now.steps[0]).toMatchObject({ error: "exit code: 1", lines: ["hello", "red"] });
    expect(counted(now)).toEqual({ done: 1, all: 1, cached: 0 });
    expect(record('{"ref":"d/d/x","name":"n","status":"Completed","created_at":"2026"}')).toMatchObject({ ref: "d/d/x", total: 0 });
    expect(record("{}")).toBeUndefined();
  });
});

describe("compose", () => {
  it("a service as the form says it, whatever is in its values", () => {
    const text = service({ ...blank("nginx"), name: "web", command: "sh -c 'a: b'", env: [{ name: "X", value: 'a"$b: #' }], mounts: [{ source: "data", target: "/d", readonly: true }] });
    expect(text).toBe('services:\n  web:\n    image: "nginx"\n    command: ["sh","-c","a: b"]\n    environment: {"X":"a\\"$$b: #"}\n    volumes: ["data:/d:ro"]\nvolumes:\n  data:\n');
  });
  it("the registry of a name", () => {
    expect(["nginx", "a/b", "localhost/x", "r.example.com/x", "h:5000/x"].map(registryOf)).toEqual(["docker.io", "docker.io", "localhost", "r.example.com", "h:5000"]);
  });
});

describe("stats", () => {
  it("a processor's share is of one second's whole", () => {
    const raw = {
      read: "2026-01-01T00:00:00Z",
      cpu_stats: { cpu_usage: { total_usage: 300 }, system_cpu_usage: 2000, online_cpus: 2 },
      precpu_stats: { cpu_usage: { total_usage: 100 }, system_cpu_usage: 1000 },
      memory_stats: { usage: 100, limit: 1000, stats: { inactive_file: 40 } },
      networks: { eth0: { rx_bytes: 1, tx_bytes: 2 }, eth1: { rx_bytes: 3, tx_bytes: 4 } },
    };
    expect(sample(JSON.stringify(raw))).toMatchObject({ cpu: 40, memory: 60, limit: 1000, received: 4, sent: 6 });
    expect(sample('{"read":"0001-01-01T00:00:00Z"}')).toBeUndefined();
  });
});

describe("map of networks", () => {
  const on = (id: string, state: string, ...networks: string[]) =>
    container({ Id: id, Names: [`/${id}`], State: state, NetworkSettings: { Networks: Object.fromEntries(networks.map((n, i) => [n, { IPAddress: `10.0.${i}.2` }])) } });
  const network = (Name: string) => ({ Name, Id: Name, Driver: "bridge" }) as Parameters<typeof topology>[0][number];

  it("shows who runs, beside what they are on", () => {
    const map = topology([network("c"), network("b"), network("a"), network("idle")], [on("db", "running", "b"), on("web", "running", "a", "b"), on("other", "running", "c"), on("gone", "exited", "idle")]);
    expect(map.networks.map((n) => n.Name)).toEqual(["a", "b", "c"]);
    expect(map.containers.map((c) => c.Id)).toEqual(["web", "db", "other"]);
    expect(map.links).toEqual([
      { network: 0, container: 0, address: "10.0.0.2" },
      { network: 1, container: 0, address: "10.0.1.2" },
      { network: 1, container: 1, address: "10.0.0.2" },
      { network: 2, container: 2, address: "10.0.0.2" },
    ]);
  });

  it("leaves out a network that has just gone", () => {
    expect(topology([], [on("web", "running", "a")]).links).toEqual([]);
  });
});

describe("settings of the engine", () => {
  it("lists are edited and the rest stays", () => {
    const text = withList('{"debug":true}', "registry-mirrors", "https://a, https://b:1");
    expect(JSON.parse(text)).toEqual({ debug: true, "registry-mirrors": ["https://a", "https://b:1"] });
    expect(listOf(text, "registry-mirrors")).toBe("https://a, https://b:1");
    expect(withList('{"registry-mirrors":["https://a"]}', "registry-mirrors", " ")).toBe("");
    expect(entries("a,, b\nc ")).toEqual(["a", "b", "c"]);
  });
  it("what is wrong is said", () => {
    expect(["", "  ", "{}"].map(wrongText)).toEqual(["", "", ""]);
    expect(["[]", "{", "1", "null"].map(wrongText).every(Boolean)).toBe(true);
    expect(wrongList("registry-mirrors", "https://m.example.com:5000/x, http://y")).toBe("");
    expect(["m.example.com", "https://", "https://a b", "ftp://x"].every((line) => wrongList("registry-mirrors", line))).toBe(true);
    expect(wrongList("insecure-registries", "r:5000, [::1]:5000, 10.0.0.0/8, fd00::/8, r.example.com")).toBe("");
    expect(["http://r", "r/x", "a b c/"].every((line) => wrongList("insecure-registries", line))).toBe(true);
  });
});

// The run dialog: a form filled from an image's own configuration, checked before anything is sent, and turned into
// both the request and the line of `docker run` that does the same.
import type { ContainerDetail, CreateBody, ImageDetail } from "../docker/client";
import { quote, words } from "./format";
import { t } from "../texts";

export interface PortRow {
  host: string;
  container: string;
  protocol: "tcp" | "udp";
}
export interface EnvRow {
  name: string;
  value: string;
}
export interface MountRow {
  source: string;
  target: string;
  readonly: boolean;
}
export type Restart = "no" | "on-failure" | "always" | "unless-stopped";

export interface RunForm {
  image: string;
  name: string;
  command: string;
  ports: PortRow[];
  env: EnvRow[];
  mounts: MountRow[];
  network: string;
  restart: Restart;
  memory: string;
  cpus: string;
  user: string;
  workdir: string;
  tty: boolean;
  remove: boolean;
  privileged: boolean;
  /** Capabilities that are added, separated by spaces or commas. */
  caps: string;
}

export function blank(image: string): RunForm {
  return {
    image,
    name: "",
    command: "",
    ports: [],
    env: [],
    mounts: [],
    network: "bridge",
    restart: "no",
    memory: "",
    cpus: "",
    user: "",
    workdir: "",
    tty: false,
    remove: false,
    privileged: false,
    caps: "",
  };
}

/** Ports that a person without rights may take are proposed where the image's own is below 1024. */
function proposed(port: number, taken: Set<number>): number {
  let host = port < 1024 ? port + 8000 : port;
  while (taken.has(host)) host += 1;
  return host;
}

/** A form for an image: each port it exposes is published, each volume it declares gets a row. */
export function fromImage(image: string, detail: ImageDetail, taken: Iterable<number> = []): RunForm {
  const form = blank(image);
  const config = detail.Config;
  const used = new Set(taken);
  for (const key of Object.keys(config?.ExposedPorts ?? {}).sort((a, b) => Number.parseInt(a) - Number.parseInt(b))) {
    const [port, protocol] = key.split("/");
    const host = proposed(Number(port), used);
    used.add(host);
    form.ports.push({ host: String(host), container: port ?? "", protocol: protocol === "udp" ? "udp" : "tcp" });
  }
  for (const target of Object.keys(config?.Volumes ?? {}).sort()) form.mounts.push({ source: "", target, readonly: false });
  return form;
}

const NAME = /^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/;
const ENV = /^[^=\s\0]+$/;
const MEMORY = /^(\d+(?:\.\d+)?)([bkmg]?)$/i;

/** `1.5g` in bytes. */
export function memory(text: string): number | undefined {
  const found = MEMORY.exec(text.trim());
  if (!found) return undefined;
  const factor = { b: 1, k: 1024, m: 1024 ** 2, g: 1024 ** 3, "": 1 }[found[2]?.toLowerCase() ?? ""] ?? 1;
  return Math.floor(Number(found[1]) * factor);
}

const CAPABILITY = /^(CAP_)?[A-Z]+(_[A-Z]+)*$/;

function capabilities(text: string): string[] {
  return text.toUpperCase().split(/[\s,]+/).filter(Boolean);
}

function port(text: string): boolean {
  return /^\d{1,5}$/.test(text) && Number(text) >= 1 && Number(text) <= 65_535;
}

/** What is wrong with a form, by field; nothing when it can be sent. */
export function check(form: RunForm, names: Iterable<string> = []): Record<string, string> {
  const wrong: Record<string, string> = {};
  if (!form.image.trim()) wrong.image = t("Name an image");
  else if (/\s/.test(form.image.trim())) wrong.image = t("An image's name has no spaces");
  if (form.name) {
    if (!NAME.test(form.name)) wrong.name = t("Two or more letters, digits, _ . or -, the first a letter or digit");
    else if ([...names].includes(form.name)) wrong.name = t("A container has this name already");
  }
  const parsed = words(form.command);
  if ("error" in parsed) wrong.command = t("The command can’t be read: {v1}", { v1: parsed.error });
  const seen = new Set<string>();
  form.ports.forEach((row, i) => {
    if (!port(row.container)) wrong[`port-${i}`] = t("The container’s port is a number from 1 to 65535");
    else if (row.host && !port(row.host)) wrong[`port-${i}`] = t("The port on this computer is a number from 1 to 65535, or empty for any");
    else if (row.host && seen.has(`${row.host}/${row.protocol}`)) wrong[`port-${i}`] = t("Port {v1} is published twice", { v1: row.host });
    if (row.host) seen.add(`${row.host}/${row.protocol}`);
  });
  form.env.forEach((row, i) => {
    if (!ENV.test(row.name)) wrong[`env-${i}`] = row.name ? t("A variable’s name has no = and no spaces") : t("The variable has no name");
  });
  const targets = new Set<string>();
  form.mounts.forEach((row, i) => {
    if (!row.target.startsWith("/") || row.target === "/") wrong[`mount-${i}`] = t("The place in the container is a whole path, such as /data");
    else if (targets.has(row.target)) wrong[`mount-${i}`] = t("{v1} is used twice", { v1: row.target });
    else if (row.source && !row.source.startsWith("/") && !NAME.test(row.source)) wrong[`mount-${i}`] = t("A volume’s name, or a folder’s whole path");
    else if (/[:,]/.test(row.target) || (row.source.startsWith("/") && row.source.includes(":"))) wrong[`mount-${i}`] = t("Paths here have no colon");
    targets.add(row.target);
  });
  const bytes = memory(form.memory);
  if (form.memory && (bytes === undefined || bytes < 6 * 1024 ** 2)) wrong.memory = t("At least 6m, such as 512m or 2g");
  if (form.cpus && !(Number(form.cpus) > 0)) wrong.cpus = t("A number, such as 0.5 or 2");
  if (form.workdir && !form.workdir.startsWith("/")) wrong.workdir = t("A whole path");
  const unknown = capabilities(form.caps).find((cap) => !CAPABILITY.test(cap));
  if (unknown) wrong.caps = t("{cap} is no capability; they are called NET_ADMIN, SYS_PTRACE, or ALL", { cap: unknown });
  if (form.remove && form.restart !== "no") wrong.restart = t("A container that is removed at its end can’t be started again");
  return wrong;
}

/** The request that makes the container. */
export function body(form: RunForm): CreateBody {
  const parsed = words(form.command);
  const cmd = "words" in parsed ? parsed.words : [];
  const bindings: Record<string, { HostIp?: string; HostPort?: string }[]> = {};
  const exposed: Record<string, Record<string, never>> = {};
  for (const row of form.ports) {
    const key = `${Number(row.container)}/${row.protocol}`;
    exposed[key] = {};
    bindings[key] = [...(bindings[key] ?? []), { HostPort: row.host ? String(Number(row.host)) : "" }];
  }
  const volumes: Record<string, Record<string, never>> = {};
  for (const row of form.mounts) if (!row.source) volumes[row.target] = {};
  const bytes = memory(form.memory);
  return {
    Image: form.image.trim(),
    ...(cmd.length ? { Cmd: cmd } : {}),
    Env: form.env.map((row) => `${row.name}=${row.value}`),
    ExposedPorts: exposed,
    Volumes: volumes,
    Tty: form.tty,
    OpenStdin: form.tty,
    ...(form.user ? { User: form.user } : {}),
    ...(form.workdir ? { WorkingDir: form.workdir } : {}),
    HostConfig: {
      PortBindings: bindings as CreateBody["HostConfig"]["PortBindings"],
      Binds: form.mounts.filter((row) => row.source).map((row) => `${row.source}:${row.target}${row.readonly ? ":ro" : ""}`),
      RestartPolicy: { Name: form.restart },
      AutoRemove: form.remove,
      Privileged: form.privileged,
      ...(form.caps.trim() ? { CapAdd: capabilities(form.caps) } : {}),
      ...(form.network && form.network !== "bridge" ? { NetworkMode: form.network } : {}),
      ...(form.memory && bytes ? { Memory: bytes } : {}),
      ...(form.cpus ? { NanoCpus: Math.round(Number(form.cpus) * 1e9) } : {}),
    },
  } as CreateBody;
}

/** The line for a terminal that does the same. */
export function line(form: RunForm): string {
  const out = ["docker", "run", "-d"];
  const add = (...parts: string[]) => out.push(...parts);
  if (form.name) add("--name", form.name);
  if (form.remove) add("--rm");
  if (form.tty) add("-it");
  for (const row of form.ports) {
    const suffix = row.protocol === "udp" ? "/udp" : "";
    add("-p", `${row.host ? `${row.host}:` : ""}${row.container}${suffix}`);
  }
  for (const row of form.env) add("-e", `${row.name}=${row.value}`);
  for (const row of form.mounts) add("-v", `${row.source ? `${row.source}:` : ""}${row.target}${row.readonly && row.source ? ":ro" : ""}`);
  if (form.network && form.network !== "bridge") add("--network", form.network);
  if (form.restart !== "no") add("--restart", form.restart);
  if (form.memory) add("-m", form.memory);
  if (form.cpus) add("--cpus", form.cpus);
  if (form.user) add("-u", form.user);
  if (form.workdir) add("-w", form.workdir);
  if (form.privileged) add("--privileged");
  for (const cap of capabilities(form.caps)) add("--cap-add", cap);
  add(form.image.trim());
  const parsed = words(form.command);
  if ("words" in parsed) add(...parsed.words);
  return out.map(quote).join(" ");
}

/** The service of a compose file that does the same. Every value is quoted as JSON, which YAML reads. */
export function service(form: RunForm): string {
  const name = /^[a-zA-Z0-9._-]+$/.test(form.name) ? form.name : "app";
  const out = ["services:", `  ${name}:`];
  const add = (key: string, value: unknown) => out.push(`    ${key}: ${JSON.stringify(value)}`);
  add("image", form.image.trim());
  const parsed = words(form.command);
  if ("words" in parsed && parsed.words.length) add("command", parsed.words);
  if (form.ports.length) add("ports", form.ports.map((p) => `${p.host ? `${p.host}:` : ""}${p.container}${p.protocol === "udp" ? "/udp" : ""}`));
  if (form.env.length) add("environment", Object.fromEntries(form.env.map((e) => [e.name, e.value.replaceAll("$", "$$$$")])));
  if (form.mounts.length) add("volumes", form.mounts.map((m) => `${m.source ? `${m.source}:` : ""}${m.target}${m.readonly && m.source ? ":ro" : ""}`));
  if (form.restart !== "no") add("restart", form.restart);
  if (form.memory) add("mem_limit", form.memory);
  if (form.cpus) add("cpus", Number(form.cpus));
  if (form.user) add("user", form.user);
  if (form.workdir) add("working_dir", form.workdir);
  if (form.tty) {
    add("tty", true);
    add("stdin_open", true);
  }
  if (form.privileged) add("privileged", true);
  if (form.caps.trim()) add("cap_add", capabilities(form.caps));
  const volumes = form.mounts.filter((m) => m.source && !m.source.startsWith("/")).map((m) => m.source);
  if (volumes.length) out.push("volumes:", ...volumes.map((v) => `  ${v}:`));
  return `${out.join("\n")}\n`;
}

/** Lines of an `.env` file, or of several variables that were pasted. */
export function envFile(text: string): EnvRow[] {
  return text
    .split(/\r?\n/)
    .map((l) => l.replace(/^\s*export\s+/, "").trim())
    .filter((l) => l && !l.startsWith("#") && l.includes("="))
    .map((l) => {
      const at = l.indexOf("=");
      return { name: l.slice(0, at).trim(), value: l.slice(at + 1).replace(/^(["'])(.*)\1$/, "$2") };
    });
}

/** The form that makes a container like one that is there. */
export function fromContainer(detail: ContainerDetail, image: ImageDetail | undefined): RunForm {
  const form = blank(detail.Config?.Image ?? detail.Image ?? "");
  const config = detail.Config;
  const host = detail.HostConfig;
  form.name = (detail.Name ?? "").replace(/^\//, "");
  const own = JSON.stringify(image?.Config?.Cmd ?? null) === JSON.stringify(config?.Cmd ?? null);
  if (!own) form.command = (config?.Cmd ?? []).map(quote).join(" ");
  const inherited = new Set(image?.Config?.Env ?? []);
  form.env = (config?.Env ?? []).filter((e) => !inherited.has(e)).map((e) => ({ name: e.slice(0, e.indexOf("=")), value: e.slice(e.indexOf("=") + 1) }));
  for (const [key, bindings] of Object.entries(host?.PortBindings ?? {})) {
    const [port, protocol] = key.split("/");
    for (const binding of (bindings ?? []) as { HostPort?: string }[]) {
      form.ports.push({ host: binding.HostPort ?? "", container: port ?? "", protocol: protocol === "udp" ? "udp" : "tcp" });
    }
  }
  for (const bind of host?.Binds ?? []) {
    const [source, target, options] = bind.split(":");
    if (target) form.mounts.push({ source: source ?? "", target, readonly: (options ?? "").split(",").includes("ro") });
  }
  const mode = host?.NetworkMode ?? "";
  form.network = mode === "default" || !mode ? "bridge" : mode;
  form.restart = (host?.RestartPolicy?.Name || "no") as Restart;
  form.memory = host?.Memory ? `${Math.round(host.Memory / 1024 ** 2)}m` : "";
  form.cpus = host?.NanoCpus ? String(host.NanoCpus / 1e9) : "";
  form.user = config?.User !== image?.Config?.User ? (config?.User ?? "") : "";
  form.tty = config?.Tty ?? false;
  form.remove = host?.AutoRemove ?? false;
  form.privileged = host?.Privileged ?? false;
  form.caps = (host?.CapAdd ?? []).join(" ");
  return form;
}

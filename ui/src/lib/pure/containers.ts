// What the lists show of containers: words for states, ports, groups by compose project.
import type { Container } from "../docker/client";
import { t } from "../texts";
import { ago } from "./format";

export type Tone = "running" | "stopped" | "warn" | "error" | "busy";

export interface Status {
  word: string;
  tone: Tone;
}

/** What a person asked for and the engine has not told of yet. */
export type Pending = "starting" | "stopping" | "restarting" | "pausing" | "resuming" | "killing" | "removing";

export function name(container: Pick<Container, "Names" | "Id">): string {
  return container.Names?.[0]?.replace(/^\//, "") ?? (container.Id ?? "").slice(0, 12);
}

const CODE = /^Exited \((\d+)\)/;

export function status(container: Pick<Container, "State" | "Status">, pending?: Pending): Status {
  if (pending) return { word: pending, tone: "busy" };
  const state = container.State ?? "";
  const words = container.Status ?? "";
  switch (state) {
    case "running":
      if (words.includes("(unhealthy)")) return { word: "unhealthy", tone: "error" };
      if (words.includes("(health: starting)")) return { word: t("running, health not known yet"), tone: "warn" };
      return { word: words.includes("(healthy)") ? t("running, healthy") : "running", tone: "running" };
    case "paused":
      return { word: "paused", tone: "warn" };
    case "restarting":
      return { word: "restarting", tone: "warn" };
    case "created":
      return { word: t("never started"), tone: "stopped" };
    case "removing":
      return { word: "removing", tone: "busy" };
    case "dead":
      return { word: t("could not be removed"), tone: "error" };
    default: {
      const code = CODE.exec(words)?.[1];
      // 137 and 143: killed, or ended by the signal of a stop. A person did that.
      if (code === undefined || code === "0" || code === "137" || code === "143") return { word: "stopped", tone: "stopped" };
      return { word: t("stopped with code {code}", { code }), tone: "error" };
    }
  }
}

export function isRunning(container: Pick<Container, "State">): boolean {
  return container.State === "running" || container.State === "paused" || container.State === "restarting";
}

/** How a container ended, in words; nothing for one that has not. */
export function endWords(state: { Status?: string; ExitCode?: number; FinishedAt?: string; OOMKilled?: boolean; Error?: string } | undefined, now = Date.now()): string {
  if (state?.Status === "created") return state.Error ? t("It could not be started: {error}", { error: state.Error }) : t("It was never started.");
  if (state?.Status !== "exited" && state?.Status !== "dead") return "";
  const code = state.ExitCode ?? 0;
  const why = state.OOMKilled ? t(", for want of memory") : code === 137 ? t(", killed") : code === 143 ? t(", stopped") : "";
  return t("It ended {when} with code {code}{why}.", { when: ago(state.FinishedAt, now), code, why });
}

export interface Published {
  host: number;
  container: number;
  protocol: string;
  /** The page, where a browser can open it. */
  url?: string;
}

/** Published ports, one each: IPv4 and IPv6 of the same port are one. */
export function published(ports: { IP?: string | undefined; PrivatePort: number; PublicPort?: number | undefined; Type: string }[] | undefined | null): Published[] {
  const seen = new Map<string, Published>();
  for (const port of ports ?? []) {
    if (!port.PublicPort) continue;
    const key = `${port.PublicPort}/${port.Type}`;
    if (seen.has(key)) continue;
    const any = !port.IP || port.IP === "0.0.0.0" || port.IP === "::" || port.IP === "127.0.0.1" || port.IP === "::1";
    const host = any ? "localhost" : port.IP?.includes(":") ? `[${port.IP}]` : port.IP;
    const scheme = port.PrivatePort === 443 || port.PrivatePort === 8443 ? "https" : "http";
    seen.set(key, {
      host: port.PublicPort,
      container: port.PrivatePort,
      protocol: port.Type,
      ...(port.Type === "tcp" ? { url: `${scheme}://${host}:${port.PublicPort}/` } : {}),
    });
  }
  return [...seen.values()].sort((a, b) => a.host - b.host);
}

export interface Group {
  /** The compose project; undefined for containers of none. */
  project?: string;
  containers: Container[];
}

const PROJECT = "com.docker.compose.project";

/** What a list is sorted by. */
export const ORDERS = ["name", "newest", "image"] as const;
export type Order = (typeof ORDERS)[number];

/** Projects first, by name, then what belongs to none; within, by name and image what runs comes first. */
export function groups(containers: Container[], by: Order = "name"): Group[] {
  const projects = new Map<string, Container[]>();
  const rest: Container[] = [];
  for (const container of containers) {
    const project = container.Labels?.[PROJECT];
    if (!project) rest.push(container);
    else projects.set(project, [...(projects.get(project) ?? []), container]);
  }
  const named = (a: Container, b: Container) => Number(isRunning(b)) - Number(isRunning(a)) || name(a).localeCompare(name(b));
  const orders: Record<Order, typeof named> = {
    name: named,
    newest: (a, b) => (b.Created ?? 0) - (a.Created ?? 0) || named(a, b),
    image: (a, b) => (a.Image ?? "").localeCompare(b.Image ?? "") || named(a, b),
  };
  const order = orders[by];
  const out: Group[] = [...projects]
    .sort(([a], [b]) => a.localeCompare(b))
    .map(([project, members]) => ({ project, containers: members.sort(order) }));
  if (rest.length) out.push({ containers: rest.sort(order) });
  return out;
}

/** All words of what was typed occur somewhere. */
export function matches(needle: string, ...hay: (string | undefined | null)[]): boolean {
  const all = hay.filter(Boolean).join("\n").toLowerCase();
  return needle
    .toLowerCase()
    .split(/\s+/)
    .every((word) => all.includes(word));
}

/** Which lists an event of the engine concerns. */
export function touched(event: { Type?: string; Action?: string; Actor?: { Attributes?: Record<string, string> } }): ("containers" | "images" | "volumes" | "networks")[] {
  switch (event.Type) {
    case "container":
      // What serves the app alone is in no list.
      if (event.Actor?.Attributes?.["dev.coracle.helper"]) return [];
      // Told often, and shown nowhere in a list.
      if (/^(exec_|top|attach|resize|archive|copy|export|commit)/.test(event.Action ?? "")) return [];
      return event.Action === "create" || event.Action === "destroy" ? ["containers", "images", "volumes"] : ["containers"];
    case "image":
      return ["images", "containers"];
    case "volume":
      return event.Action === "mount" || event.Action === "unmount" ? [] : ["volumes"];
    case "network":
      return ["networks"];
    default:
      return [];
  }
}

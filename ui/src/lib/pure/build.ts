// A build, made of BuildKit's progress line by line (`--progress=rawjson`).
import { base } from "./paths";

export interface Step {
  digest: string;
  name: string;
  started?: number;
  completed?: number;
  cached: boolean;
  error?: string;
  lines: string[];
  /** Of what it loads or sends. */
  current: number;
  total: number;
}

export interface Build {
  steps: Step[];
  warnings: string[];
  /** What is no progress: the reason of a failure, mostly. */
  rest: string[];
}

/** What the history of builds calls a build of this folder: the same name before and after. */
export function buildName(folder: string, file: string, target: string): string {
  return `${base(folder)}${file && file !== "Dockerfile" ? `/${file}` : ""}${target ? ` (${target})` : ""}`;
}

/** Lines of a step that are kept. */
const MOST = 5000;

export const none = (): Build => ({ steps: [], warnings: [], rest: [] });

interface Raw {
  vertexes?: { digest?: string; name?: string; started?: string; completed?: string; cached?: boolean; error?: string }[];
  statuses?: { id?: string; vertex?: string; current?: number; total?: number }[];
  logs?: { vertex?: string; data?: string }[];
  warnings?: { short?: string; level?: number }[];
}

const time = (text: string | undefined) => (text ? Date.parse(text) || undefined : undefined);

function decode(base64: string): string {
  try {
    return new TextDecoder().decode(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)));
  } catch {
    return "";
  }
}

/** What a terminal alone understands is left out. */
export function plain(text: string): string {
  // biome-ignore lint: control characters are what is looked for
  return text.replaceAll(/\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)|[\u0000-\u0008\u000b-\u001f\u007f]/g, "");
}

/** Takes lines in. */
export function take(build: Build, lines: string[]): Build {
  const steps = new Map(build.steps.map((s) => [s.digest, s]));
  const sizes = new Map<string, Map<string, [number, number]>>();
  let { warnings, rest } = build;
  for (const line of lines) {
    let raw: Raw;
    try {
      raw = JSON.parse(line) as Raw;
    } catch {
      rest = [...rest, line].slice(-200);
      continue;
    }
    if (!raw || typeof raw !== "object") continue;
    for (const vertex of raw.vertexes ?? []) {
      if (!vertex.digest) continue;
      const known = steps.get(vertex.digest) ?? { digest: vertex.digest, name: "", cached: false, lines: [], current: 0, total: 0 };
      const started = time(vertex.started) ?? known.started;
      const completed = vertex.started && !vertex.completed ? undefined : (time(vertex.completed) ?? known.completed);
      const step: Step = { ...known, name: vertex.name ?? known.name, cached: vertex.cached ?? known.cached };
      delete step.started;
      delete step.completed;
      if (started !== undefined) step.started = started;
      if (completed !== undefined) step.completed = completed;
      if (vertex.error) step.error = vertex.error;
      steps.set(vertex.digest, step);
    }
    for (const status of raw.statuses ?? []) {
      const step = steps.get(status.vertex ?? "");
      if (!step || !status.total) continue;
      const of = sizes.get(step.digest) ?? new Map<string, [number, number]>();
      of.set(status.id ?? "", [status.current ?? 0, status.total]);
      sizes.set(step.digest, of);
      let [current, total] = [0, 0];
      for (const [c, all] of of.values()) [current, total] = [current + c, total + all];
      steps.set(step.digest, { ...step, current, total });
    }
    for (const log of raw.logs ?? []) {
      const step = steps.get(log.vertex ?? "");
      if (!step || !log.data) continue;
      const text = plain(decode(log.data).replaceAll("\r\n", "\n"));
      const before = step.lines.at(-1) ?? "";
      // A chunk may go on where the last one ended.
      const fresh = (before + text).split("\n");
      steps.set(step.digest, { ...step, lines: [...step.lines.slice(0, -1), ...fresh].slice(-MOST) });
    }
    for (const warning of raw.warnings ?? []) {
      const text = warning.short ? decode(warning.short) : "";
      if (text && !warnings.includes(text)) warnings = [...warnings, text];
    }
  }
  return { steps: [...steps.values()], warnings, rest };
}

/** Steps that count, without BuildKit's own preparations. */
export function counted(build: Build): { done: number; all: number; cached: number } {
  const own = build.steps.filter((s) => !s.name.startsWith("[internal]"));
  return { done: own.filter((s) => s.completed !== undefined).length, all: own.length, cached: own.filter((s) => s.cached).length };
}

/** The number of steps that a step's name tells (`[web 2/5] RUN ...`), for a bar before all steps are known. */
export function share(build: Build): number | undefined {
  const { done, all } = counted(build);
  return all ? done / Math.max(all, 1) : undefined;
}

export interface Record {
  ref: string;
  name: string;
  status: string;
  created: string;
  completed?: string;
  total: number;
  done: number;
  cached: number;
}

/** A line of `buildx history ls`. */
export function record(line: string): Record | undefined {
  try {
    const raw = JSON.parse(line) as { [key: string]: unknown };
    const text = (key: string) => (typeof raw[key] === "string" ? (raw[key] as string) : "");
    const number = (key: string) => (typeof raw[key] === "number" ? (raw[key] as number) : 0);
    if (!text("ref")) return undefined;
    return {
      ref: text("ref"),
      name: text("name"),
      status: text("status"),
      created: text("created_at"),
      ...(text("completed_at") ? { completed: text("completed_at") } : {}),
      total: number("total_steps"),
      done: number("completed_steps"),
      cached: number("cached_steps"),
    };
  } catch {
    return undefined;
  }
}

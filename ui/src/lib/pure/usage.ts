// What containers use over the last minutes, and what it means.
import type { DiskUse } from "../docker/client";
import { t } from "../texts";
import { size } from "./format";

export interface Use {
  cpu: number;
  memory: number;
  limit: number;
  received: number;
  sent: number;
  read: number;
  written: number;
  processes: number;
}

export interface Row {
  id: string;
  use: Use;
  /** The processor's share over some seconds: what the order goes by, so that rows don't jump. */
  steady: number;
  cpus: number[];
  /** Bytes a second. */
  network: number;
  blocks: number;
}

export interface Sum {
  /** Seconds since 1970. */
  at: number;
  cpu: number;
  memory: number;
}

/** Samples of each container, and sums, that are kept. */
const SAMPLES = 60;
const SUMS = 300;

export class History {
  #rows = new Map<string, Row>();
  #sums: Sum[] = [];
  #last = 0;

  take(at: number, containers: { [id: string]: Use }) {
    const seconds = this.#last ? (at - this.#last) / 1000 : 0;
    this.#last = at;
    let [cpu, memory] = [0, 0];
    const rows = new Map<string, Row>();
    for (const [id, use] of Object.entries(containers)) {
      const before = this.#rows.get(id);
      const rate = (now: number, then: number | undefined) => (seconds > 0 && then !== undefined ? Math.max(0, (now - then) / seconds) : 0);
      const cpus = [...(before?.cpus ?? []), use.cpu].slice(-SAMPLES);
      const recent = cpus.slice(-5);
      rows.set(id, {
        id,
        use,
        cpus,
        steady: Math.round(recent.reduce((sum, v) => sum + v, 0) / recent.length),
        network: rate(use.received + use.sent, before && before.use.received + before.use.sent),
        blocks: rate(use.read + use.written, before && before.use.read + before.use.written),
      });
      cpu += use.cpu;
      memory += use.memory;
    }
    this.#rows = rows;
    this.#sums = [...this.#sums, { at: at / 1000, cpu, memory }].slice(-SUMS);
  }

  now(): Row[] {
    return [...this.#rows.values()];
  }

  sums(): Sum[] {
    return this.#sums;
  }
}

/** Points of a line that fills a box; the scale is at least a tenth of a processor. */
export function line(values: number[], width: number, height: number): string {
  const most = Math.max(10, ...values);
  const step = width / (SAMPLES - 1);
  const left = width - (values.length - 1) * step;
  return values.map((v, i) => `${(left + i * step).toFixed(1)},${(height - 1 - (v / most) * (height - 2)).toFixed(1)}`).join(" ");
}

/** Why the computer is slow or hot, in a sentence; nothing when it is not. */
export function hottest(rows: Row[], sum: Sum, all: { cpus: number; memory: number }, name: (id: string) => string): string {
  const share = sum.cpu / (all.cpus * 100);
  const top = [...rows].sort((a, b) => b.steady - a.steady)[0];
  const large = [...rows].sort((a, b) => b.use.memory - a.use.memory)[0];
  if (share > 0.5 && top) return t("Containers keep {share} % of the processors busy, {name} most of all ({own} %).", { share: Math.round(share * 100), name: name(top.id), own: Math.round(top.steady) });
  if (all.memory && sum.memory / all.memory > 0.8 && large) return t("Memory is short: containers use {used}, {name} most of all ({own}).", { used: size(sum.memory), name: name(large.id), own: size(large.use.memory) });
  const full = rows.find((r) => r.use.limit && r.use.limit < all.memory && r.use.memory / r.use.limit > 0.9);
  if (full) return t("{name} is close to its limit of memory ({limit}).", { name: name(full.id), limit: size(full.use.limit) });
  return "";
}

export interface DiskPart {
  what: "images" | "containers" | "volumes" | "builds";
  label: string;
  size: number;
  free: number;
  /** How many of them nobody uses. */
  idle: number;
}

/** What is on the disk, and what of it could go. */
export function disk(use: DiskUse): DiskPart[] {
  const sum = (values: (number | undefined)[]) => values.reduce<number>((all, v) => all + Math.max(0, v ?? 0), 0);
  const idle = {
    images: (use.Images ?? []).filter((i) => !i.Containers),
    containers: (use.Containers ?? []).filter((c) => c.State !== "running" && c.State !== "paused" && c.State !== "restarting"),
    volumes: (use.Volumes ?? []).filter((v) => !v.UsageData?.RefCount),
    builds: (use.BuildCache ?? []).filter((b) => !b.InUse),
  };
  return [
    { what: "images", label: t("Images"), size: use.LayersSize ?? 0, free: sum(idle.images.map((i) => i.Size - Math.max(0, i.SharedSize))), idle: idle.images.length },
    { what: "containers", label: t("Containers"), size: sum((use.Containers ?? []).map((c) => c.SizeRw)), free: sum(idle.containers.map((c) => c.SizeRw)), idle: idle.containers.length },
    { what: "volumes", label: t("Volumes"), size: sum((use.Volumes ?? []).map((v) => v.UsageData?.Size)), free: sum(idle.volumes.map((v) => v.UsageData?.Size)), idle: idle.volumes.length },
    { what: "builds", label: t("Build cache"), size: sum((use.BuildCache ?? []).map((b) => b.Size)), free: sum(idle.builds.map((b) => b.Size)), idle: idle.builds.length },
  ];
}

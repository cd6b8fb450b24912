// What containers use over the last minutes, and what it means.
import type { DiskUse, Prunable } from "../docker/client";
import { t, tn } from "../texts";
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
  /** The processor's share over some seconds, in percent of one: what is shown, and what the order goes by. */
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
/** Samples that a shown share is the mean of. */
const STEADY = 5;

/** A share as it is shown wherever it is: the mean of the last seconds. */
export function steady(values: number[]): number {
  const recent = values.slice(-STEADY);
  return recent.length ? recent.reduce((sum, v) => sum + v, 0) / recent.length : 0;
}

/** Percent of one processor: four that are busy are 400 %. */
export function percent(share: number): string {
  return `${share.toFixed(share < 9.95 ? 1 : 0)} %`;
}

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
      rows.set(id, {
        id,
        use,
        cpus,
        steady: steady(cpus),
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
  const busy = sum.cpu / 100;
  const top = [...rows].sort((a, b) => b.steady - a.steady)[0];
  const large = [...rows].sort((a, b) => b.use.memory - a.use.memory)[0];
  if (busy > all.cpus / 2 && top) return t("Containers keep {busy} of {all} processors busy, {name} most of all ({own}).", { busy: busy.toFixed(1), all: all.cpus, name: name(top.id), own: percent(top.steady) });
  if (all.memory && sum.memory / all.memory > 0.8 && large) return t("Memory is short: containers use {used}, {name} most of all ({own}).", { used: size(sum.memory), name: name(large.id), own: size(large.use.memory) });
  const full = rows.find((r) => r.use.limit && r.use.limit < all.memory && r.use.memory / r.use.limit > 0.9);
  if (full) return t("{name} is close to its limit of memory ({limit}).", { name: name(full.id), limit: size(full.use.limit) });
  return "";
}

/** What could be freed, by one of the choices that a person has. */
export interface Choice {
  /** How many of what. */
  label: string;
  bytes: number;
  count: number;
}

export interface DiskPart {
  what: "images" | "containers" | "volumes" | "builds";
  label: string;
  size: number;
  /** The usual choice first. */
  choices: Choice[];
}

/** What is on the disk, and what a prune would free of it: no more than that is promised. */
export function parts(use: DiskUse, images?: { unnamed: Prunable; unused: Prunable }): DiskPart[] {
  const sum = (values: (number | undefined)[]) => values.reduce<number>((all, v) => all + Math.max(0, v ?? 0), 0);
  const own = (use.BuildCache ?? []).filter((b) => !b.Shared);
  const containers = (use.Containers ?? []).filter((c) => c.State === "created" || c.State === "exited").map((c) => c.SizeRw);
  const volumes = (use.Volumes ?? []).filter((v) => !v.UsageData?.RefCount && !Object.keys(v.Options ?? {}).length).map((v) => v.UsageData?.Size);
  const builds = own.filter((b) => !b.InUse).map((b) => b.Size);
  const one = (label: (n: number) => string, sizes: (number | undefined)[]) => [{ label: label(sizes.length), bytes: sum(sizes), count: sizes.length }];
  const choice = (label: (n: number) => string, { Count, SpaceReclaimable }: Prunable) => ({ label: label(Count), bytes: SpaceReclaimable, count: Count });
  return [
    { what: "images", label: t("Images"), size: use.LayersSize ?? 0, choices: images ? [choice((n) => t("{n} without a name", { n }), images.unnamed), choice((n) => t("{n} that nobody uses", { n }), images.unused)] : [] },
    { what: "containers", label: t("Containers"), size: sum((use.Containers ?? []).map((c) => c.SizeRw)), choices: one((n) => t("{n} stopped", { n }), containers) },
    { what: "volumes", label: t("Volumes"), size: sum((use.Volumes ?? []).map((v) => v.UsageData?.Size)), choices: one((n) => t("{n} that nobody uses", { n }), volumes) },
    { what: "builds", label: t("Build cache"), size: sum(own.map((b) => b.Size)), choices: one((n) => tn("{n} step", "{n} steps", n), builds) },
  ];
}

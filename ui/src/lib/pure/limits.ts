// What a container may use, in words.
import type { ContainerDetail } from "../docker/client";
import { t, tn } from "../texts";
import { size } from "./format";

type Host = NonNullable<ContainerDetail["HostConfig"]>;

export interface Limit {
  what: string;
  says: string;
  /** Whether somebody set it. */
  set: boolean;
}

/** Memory, processors and processes; what has no limit says so. */
export function limits(host: Host): Limit[] {
  const none = t("no limit");
  const memory = host.Memory ?? 0;
  const swap = host.MemorySwap ?? 0;
  // As docker counts it: memory and swap together; -1 is as much as there is.
  const swapWords = !memory || !swap ? "" : swap < 0 ? t(", swap without a limit") : swap > memory ? t(", {swap} of swap", { swap: size(swap - memory) }) : t(", no swap");
  const cpus = host.NanoCpus ? host.NanoCpus / 1e9 : host.CpuQuota && host.CpuQuota > 0 ? host.CpuQuota / (host.CpuPeriod || 100_000) : 0;
  const set = host.CpusetCpus ?? "";
  const pids = host.PidsLimit ?? 0;
  return [
    { what: t("Memory"), says: memory ? size(memory) + swapWords : none, set: memory > 0 },
    { what: t("Processors"), says: [cpus ? String(Number(cpus.toFixed(2))) : "", set ? t("only number {set}", { set }) : ""].filter(Boolean).join(", ") || none, set: cpus > 0 || !!set },
    { what: t("Processes"), says: pids > 0 ? pids.toLocaleString() : none, set: pids > 0 },
  ];
}

/** A restart policy in words. */
export function restartWords(host: Host | undefined): string {
  const { Name, MaximumRetryCount } = host?.RestartPolicy ?? {};
  if (host?.AutoRemove) return t("never; it is removed when it ends");
  switch (Name) {
    case "always":
      return t("always");
    case "unless-stopped":
      return t("unless it is stopped");
    case "on-failure":
      return MaximumRetryCount ? tn("when it fails, once", "when it fails, up to {n} times", MaximumRetryCount) : t("when it fails");
    default:
      return t("never");
  }
}

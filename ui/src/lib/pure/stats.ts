// What `docker stats` makes of the engine's numbers.

export interface Sample {
  at: number;
  /** Percent of one processor. */
  cpu: number;
  /** Processors that there are. */
  cpus: number;
  memory: number;
  limit: number;
  received: number;
  sent: number;
  read: number;
  written: number;
  processes: number;
}

interface Raw {
  read?: string;
  cpu_stats?: { cpu_usage?: { total_usage?: number }; system_cpu_usage?: number; online_cpus?: number };
  precpu_stats?: { cpu_usage?: { total_usage?: number }; system_cpu_usage?: number };
  memory_stats?: { usage?: number; limit?: number; stats?: { inactive_file?: number; total_inactive_file?: number } };
  networks?: Record<string, { rx_bytes?: number; tx_bytes?: number }>;
  blkio_stats?: { io_service_bytes_recursive?: { op?: string; value?: number }[] | null };
  pids_stats?: { current?: number };
}

/** One line of the stream; undefined for one that has no numbers (a container that has just ended). */
export function sample(line: string): Sample | undefined {
  let raw: Raw;
  try {
    raw = JSON.parse(line) as Raw;
  } catch {
    return undefined;
  }
  const at = Date.parse(raw.read ?? "");
  if (!Number.isFinite(at) || at <= 0) return undefined;
  const used = (raw.cpu_stats?.cpu_usage?.total_usage ?? 0) - (raw.precpu_stats?.cpu_usage?.total_usage ?? 0);
  const system = (raw.cpu_stats?.system_cpu_usage ?? 0) - (raw.precpu_stats?.system_cpu_usage ?? 0);
  const first = !raw.precpu_stats?.system_cpu_usage;
  const cpus = raw.cpu_stats?.online_cpus || 1;
  const memory = raw.memory_stats?.usage ?? 0;
  const cache = raw.memory_stats?.stats?.inactive_file ?? raw.memory_stats?.stats?.total_inactive_file ?? 0;
  const networks = Object.values(raw.networks ?? {});
  const blocks = raw.blkio_stats?.io_service_bytes_recursive ?? [];
  const sum = (op: string) => blocks.filter((b) => b.op?.toLowerCase() === op).reduce((all, b) => all + (b.value ?? 0), 0);
  return {
    at: at / 1000,
    cpu: !first && system > 0 && used > 0 ? (used / system) * cpus * 100 : 0,
    cpus,
    memory: Math.max(0, memory - cache),
    limit: raw.memory_stats?.limit ?? 0,
    received: networks.reduce((all, n) => all + (n.rx_bytes ?? 0), 0),
    sent: networks.reduce((all, n) => all + (n.tx_bytes ?? 0), 0),
    read: sum("read"),
    written: sum("write"),
    processes: raw.pids_stats?.current ?? 0,
  };
}

// The progress of a pull, made of what the engine says line by line.
import { t } from "../texts";

export interface LayerProgress {
  id: string;
  status: string;
  current: number;
  total: number;
  done: boolean;
}

export interface Pull {
  layers: LayerProgress[];
  /** What was said last of the image as a whole. */
  status: string;
  error?: string;
}

export function nothing(): Pull {
  return { layers: [], status: t("Asking the registry") };
}

const DONE = /^(Pull complete|Already exists|Download complete|Loaded|Mounted from|Pushed|Layer already exists)/;

/** Takes in one line; a line that is no progress changes nothing. */
export function progress(pull: Pull, line: string): Pull {
  let said: { id?: unknown; status?: unknown; error?: unknown; progressDetail?: { current?: unknown; total?: unknown } };
  try {
    said = JSON.parse(line);
  } catch {
    return pull;
  }
  if (!said || typeof said !== "object") return pull;
  if (typeof said.error === "string") return { ...pull, error: said.error };
  const status = typeof said.status === "string" ? said.status : "";
  if (typeof said.id !== "string" || status.startsWith("Pulling from")) return status ? { ...pull, status } : pull;
  const number = (value: unknown) => (typeof value === "number" && Number.isFinite(value) && value >= 0 ? value : undefined);
  const known = pull.layers.find((l) => l.id === said.id);
  const done = DONE.test(status) && status !== "Download complete";
  const layer: LayerProgress = {
    id: said.id,
    status,
    current: number(said.progressDetail?.current) ?? (done ? (known?.total ?? 0) : (known?.current ?? 0)),
    total: number(said.progressDetail?.total) ?? known?.total ?? 0,
    done,
  };
  const layers = known ? pull.layers.map((l) => (l.id === layer.id ? layer : l)) : [...pull.layers, layer];
  return { ...pull, layers };
}

/** How far all of it is, between 0 and 1; undefined while nobody can say. */
export function fraction(pull: Pull): number | undefined {
  const total = pull.layers.reduce((sum, l) => sum + l.total, 0);
  if (!total) return pull.layers.length && pull.layers.every((l) => l.done) ? 1 : undefined;
  return Math.min(1, pull.layers.reduce((sum, l) => sum + (l.done ? l.total : Math.min(l.current, l.total)), 0) / total);
}

/** What a load brought, by what the engine said: names, or ids of images without one. */
export function loaded(lines: string[]): string[] {
  return lines.flatMap((line) => /^Loaded image(?: ID)?: (\S+)$/.exec(line)?.[1] ?? []);
}

/** An image's name as the pull wants it: name and tag apart. Undefined when it can't be one. */
export function reference(text: string): { name: string; tag: string } | undefined {
  const name = text.trim();
  if (!name || /[\s?#]/.test(name) || !/^[\w./:@-]+$/.test(name)) return undefined;
  const at = name.indexOf("@");
  if (at >= 0) return /^.+@sha256:[0-9a-f]{64}$/.test(name) ? { name: name.slice(0, at), tag: name.slice(at + 1) } : undefined;
  const colon = name.lastIndexOf(":");
  if (colon > name.lastIndexOf("/")) {
    const tag = name.slice(colon + 1);
    return /^\w[\w.-]{0,127}$/.test(tag) && colon > 0 ? { name: name.slice(0, colon), tag } : undefined;
  }
  return { name, tag: "latest" };
}

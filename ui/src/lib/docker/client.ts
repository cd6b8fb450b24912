// Docker's API as the user interface uses it. Types are the specification's own, generated.
import { api, EngineError, engineWords } from "../backend";
import type { definitions } from "./api.gen";

export type Container = definitions["ContainerSummary"];
export type ContainerDetail = definitions["ContainerInspectResponse"];
export type Image = definitions["ImageSummary"];
export type ImageDetail = definitions["ImageInspect"];
export type Volume = definitions["Volume"];
export type Network = definitions["Network"];
export type CreateBody = definitions["ContainerConfig"] & {
  HostConfig: definitions["HostConfig"];
  NetworkingConfig?: definitions["NetworkingConfig"];
};
export type Usage = definitions["ContainerUpdateResponse"];
export interface DiskUse {
  LayersSize?: number;
  Images?: { Size: number; SharedSize: number; Containers: number }[] | null;
  Containers?: { SizeRw?: number; State?: string; Labels?: Record<string, string> | null }[] | null;
  Volumes?: { Name: string; Options?: Record<string, string> | null; UsageData?: { Size: number; RefCount: number } | null }[] | null;
  BuildCache?: { Size: number; InUse: boolean; Shared: boolean }[] | null;
}
/** Of Coracle's own `/coracle/v1/images/prunable`: what a prune with the same filters would do now. */
export interface Prunable {
  Count: number;
  SpaceReclaimable: number;
}
/** The label of what serves the app alone: no list shows it, and no prune of the app's takes it. */
export const HELPER = "dev.coracle.helper";
/** Of Coracle's own `/coracle/v1/images/{name}/files`. */
export interface LayerFile {
  Path: string;
  Kind: "file" | "folder" | "link" | "special" | "removed";
  Target: string | null;
  Size: number;
  Mode: number;
}
/** A step of an image's history; `Layer` is the number of the layer that it made, told by Coracle's engine alone. */
export type Layer = { Id: string; Created: number; CreatedBy: string; Size: number; Comment: string; Tags: string[] | null; Layer?: number | null };
/** Of Coracle's own `/coracle/v1/volumes/{name}/snapshots`. */
export interface Snapshot {
  Name: string;
  CreatedAt: string;
  Size: number;
}
export type Processes = { Titles: string[]; Processes: string[][] };

type Query = Record<string, string | number | boolean | undefined>;

/** A path with its query. */
export function path(base: string, query: Query): string {
  const search = new URLSearchParams();
  for (const [key, value] of Object.entries(query)) if (value !== undefined) search.set(key, String(value));
  const text = search.toString();
  return text ? `${base}?${text}` : base;
}


async function call<T>(method: string, where: string, body?: unknown): Promise<T> {
  const answer = await api().docker({ method, path: where, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
  if (answer.status >= 400) throw new EngineError(answer.status, engineWords(answer));
  return (answer.text ? JSON.parse(answer.text) : undefined) as T;
}

const id = encodeURIComponent;
/** Filters of a prune of images: those without a name, or all. */
const pruned = (all: boolean) => JSON.stringify({ dangling: [all ? "false" : "true"], "label!": [HELPER] });

export type ContainerAction = "start" | "stop" | "restart" | "pause" | "unpause" | "kill";

export const docker = {
  containers: () => call<Container[]>("GET", path("/containers/json", { all: true })),
  container: (name: string) => call<ContainerDetail>("GET", `/containers/${id(name)}/json`),
  act: (name: string, action: ContainerAction) => call<void>("POST", `/containers/${id(name)}/${action}`),
  removeContainer: (name: string, volumes = false) => call<void>("DELETE", path(`/containers/${id(name)}`, { force: true, v: volumes })),
  rename: (name: string, to: string) => call<void>("POST", path(`/containers/${id(name)}/rename`, { name: to })),
  create: (name: string, body: CreateBody) =>
    call<{ Id: string; Warnings: string[] | null }>("POST", path("/containers/create", { name: name || undefined }), body),
  top: (name: string) => call<Processes>("GET", `/containers/${id(name)}/top`),
  pruneContainers: () => call<{ ContainersDeleted: string[] | null; SpaceReclaimed: number }>("POST", path("/containers/prune", { filters: JSON.stringify({ "label!": [HELPER] }) })),

  limits: (name: string, body: Record<string, unknown>) => call<{ Warnings: string[] | null }>("POST", `/containers/${id(name)}/update`, body),
  commit: (name: string, repo: string, tag: string) => call<{ Id: string }>("POST", path("/commit", { container: name, repo, tag })),

  images: () => call<Image[]>("GET", path("/images/json", { "shared-size": true })),
  image: (name: string) => call<ImageDetail>("GET", `/images/${id(name)}/json`),
  /** With the layers' numbers where the engine can tell what is in them. */
  history: (name: string, layers = false) => call<Layer[]>("GET", `${layers ? "/coracle/v1" : ""}/images/${id(name)}/history`),
  layerFiles: (name: string, layer: number) => call<{ DiffId: string; Files: LayerFile[]; Total: number }>("GET", `/coracle/v1/images/${id(name)}/files?layer=${layer}`),
  tag: (name: string, repo: string, tag: string) => call<void>("POST", path(`/images/${id(name)}/tag`, { repo, tag })),
  removeImage: (name: string, force = false) => call<unknown>("DELETE", path(`/images/${id(name)}`, { force })),
  pruneImages: (all: boolean) => call<{ ImagesDeleted: unknown[] | null; SpaceReclaimed: number }>("POST", path("/images/prune", { filters: pruned(all) })),
  prunable: (all: boolean) => call<Prunable>("GET", path("/coracle/v1/images/prunable", { filters: pruned(all) })),

  volumes: async () => (await call<{ Volumes: Volume[] | null }>("GET", "/volumes")).Volumes ?? [],
  createVolume: (name: string, labels: Record<string, string> = {}) => call<Volume>("POST", "/volumes/create", { Name: name, Labels: labels }),
  removeVolume: (name: string) => call<void>("DELETE", `/volumes/${id(name)}`),
  pruneVolumes: () =>
    call<{ VolumesDeleted: string[] | null; SpaceReclaimed: number }>(
      "POST",
      path("/volumes/prune", { filters: JSON.stringify({ all: ["true"] }) }),
    ),

  snapshots: async (volume: string) => (await call<{ Snapshots: Snapshot[] }>("GET", `/coracle/v1/volumes/${id(volume)}/snapshots`)).Snapshots,
  snapshot: (volume: string, name: string) => call<Snapshot>("POST", `/coracle/v1/volumes/${id(volume)}/snapshots`, { Name: name }),
  restoreSnapshot: (volume: string, name: string) => call<void>("POST", `/coracle/v1/volumes/${id(volume)}/snapshots/${id(name)}/restore`),
  removeSnapshot: (volume: string, name: string) => call<void>("DELETE", `/coracle/v1/volumes/${id(volume)}/snapshots/${id(name)}`),

  networks: () => call<Network[]>("GET", "/networks"),
  network: (name: string) => call<Network>("GET", `/networks/${id(name)}`),
  createNetwork: (name: string, internal: boolean) => call<{ Id: string }>("POST", "/networks/create", { Name: name, Driver: "bridge", Internal: internal }),
  removeNetwork: (name: string) => call<void>("DELETE", `/networks/${id(name)}`),
  pruneNetworks: () => call<{ NetworksDeleted: string[] | null }>("POST", "/networks/prune"),

  connect: (network: string, container: string) => call<void>("POST", `/networks/${id(network)}/connect`, { Container: container }),
  disconnect: (network: string, container: string) => call<void>("POST", `/networks/${id(network)}/disconnect`, { Container: container, Force: true }),

  diskUse: () => call<DiskUse>("GET", "/system/df"),
  pruneBuilds: () => call<{ SpaceReclaimed: number }>("POST", path("/build/prune", { all: true })),

  info: () => call<definitions["SystemInfo"]>("GET", "/info"),
  features: () => call<{ operations: string[] }>("GET", "/coracle/v1/features"),

  exec: (name: string, cmd: string[], tty: boolean, size?: [number, number]) =>
    call<{ Id: string }>("POST", `/containers/${id(name)}/exec`, {
      AttachStdin: tty,
      AttachStdout: true,
      AttachStderr: true,
      Tty: tty,
      Cmd: cmd,
      ...(tty ? { Env: ["TERM=xterm-256color"] } : { Env: ["LC_ALL=C"] }),
      ...(size ? { ConsoleSize: size } : {}),
    }),
  resize: (name: string, rows: number, columns: number) => call<void>("POST", path(`/containers/${id(name)}/resize`, { h: rows, w: columns })),
  resizeExec: (exec: string, rows: number, columns: number) => call<void>("POST", path(`/exec/${id(exec)}/resize`, { h: rows, w: columns })),
  execCode: async (exec: string) => (await call<{ ExitCode: number | null }>("GET", `/exec/${id(exec)}/json`)).ExitCode,
};

// What the engine holds, live: lists are read once and again when an event concerns them; nothing is polled.
import { SvelteMap } from "svelte/reactivity";

import { api, type Channel } from "../backend";
import type { Failure, Machine } from "../backend/words";
import { type Container, type ContainerAction, docker, HELPER, path, type Image, type Network, type Volume } from "../docker/client";
import { name, type Pending, touched } from "../pure/containers";
import { notify } from "./ui.svelte";
import { t } from "../texts";

/** How long an import may take, at most. */
const DAY_S = 24 * 60 * 60;

/** Helpers that a window left behind when it was ended. */
async function sweep() {
  const filters = JSON.stringify({ label: [HELPER] });
  const answer = await api().docker({ method: "GET", path: path("/containers/json", { all: true, filters }) });
  if (answer.status >= 400) return;
  for (const { Id, Created, Labels } of JSON.parse(answer.text) as Required<Pick<Container, "Id" | "Created" | "Labels">>[]) {
    // An import is no window's: it may go on.
    const going = Labels[HELPER] === "import" && Date.now() / 1000 - Created < DAY_S;
    if (!going) await docker.removeContainer(Id).catch(() => undefined);
  }
}

/** A list, and whether it can be trusted. What was shown stays while it is read again. */
export class List<T> {
  items = $state.raw<T[]>([]);
  state = $state<"waiting" | "ready" | "failed">("waiting");
  error = $state("");
  #again = false;
  #reading: Promise<void> | undefined;

  constructor(readonly read: () => Promise<T[]>) {}

  /** Reads it; asked while it is read, it is read once more. Done when what was there at the call is shown. */
  refresh(): Promise<void> {
    if (this.#reading) this.#again = true;
    else this.#reading = this.#read().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #read(): Promise<void> {
    try {
      do {
        this.#again = false;
        this.items = await this.read();
        this.state = "ready";
        this.error = "";
      } while (this.#again);
    } catch (error) {
      this.state = "failed";
      this.error = words(error);
    }
  }
}

/** An error in its own words. */
export function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Events that come within this time are answered by one reading. */
const GATHER_MS = 60;
/** Pause before a stream that broke is opened again. */
const AGAIN_MS = 700;

const WORD: Record<ContainerAction | "remove", Pending> = {
  start: "starting",
  stop: "stopping",
  restart: "restarting",
  pause: "pausing",
  unpause: "resuming",
  kill: "killing",
  remove: "removing",
};

class Engine {
  machine = $state.raw<Machine | undefined>();
  /** Why the machine's state is not known. */
  lost = $state.raw<Failure | undefined>();
  /** What a person asked of the machine and is not done. */
  asked = $state<"start" | "stop" | "restart" | undefined>();
  containers = new List<Container>(async () => (await docker.containers()).filter((c) => !c.Labels?.[HELPER]));
  images = new List<Image>(async () => (await docker.images()).filter((i) => !i.Labels?.[HELPER]));
  volumes = new List<Volume>(docker.volumes);
  networks = new List<Network>(docker.networks);
  pending = new SvelteMap<string, Pending>();
  #events: Channel | undefined;
  #wanted = new Set<"containers" | "images" | "volumes" | "networks">();
  #timer: ReturnType<typeof setTimeout> | undefined;

  get running(): boolean {
    return this.machine?.state === "running";
  }

  /** Whoever shows one container reads it again when this changes. */
  changes = $state(0);

  start() {
    this.#stream = api().open(
      { open: "machine" },
      {
        message: (message) => {
          if (message.message === "machine") this.#machine(message.machine);
          else if (message.message === "failed" || message.message === "ended") {
            this.lost = message.message === "failed" ? message.failure : { code: "ended", status: null, message: t("the app ended") };
            setTimeout(() => this.start(), AGAIN_MS);
          }
        },
      },
    );
  }

  /** The one who tells the machine's state: an answer from elsewhere could be older than what it told last. */
  #stream: Channel | undefined;

  #machine(machine: Machine) {
    const was = this.running;
    this.machine = machine;
    this.lost = undefined;
    if (machine.state === "running" && (!was || !this.#events)) this.#listen();
    if (machine.state !== "running") {
      this.#events?.close();
      this.#events = undefined;
      this.pending.clear();
      for (const list of [this.containers, this.images, this.volumes, this.networks]) {
        list.items = [];
        list.state = "waiting";
      }
    }
  }

  #listen() {
    this.#events?.close();
    this.#events = api().open(
      { open: "lines", method: "GET", path: "/events", registry: null },
      {
        message: (message) => {
          if (message.message === "opened") this.refreshAll();
          else if (message.message === "lines") for (const line of message.lines) this.#event(line);
          else if (message.message === "failed" || message.message === "ended") {
            this.#events = undefined;
            if (this.containers.state === "waiting") {
              this.containers.state = "failed";
              this.containers.error = message.message === "failed" ? message.failure.message : t("the engine ended the stream of its events");
            }
            setTimeout(() => this.#again(), AGAIN_MS);
          }
        },
      },
    );
  }

  /** Asks the daemon first: a machine that has just fallen asleep would be woken by who looks for its engine. */
  #again() {
    this.#stream?.send({ input: "look" });
  }

  #event(line: string) {
    let event: { Type?: string; Action?: string };
    try {
      event = JSON.parse(line) as typeof event;
    } catch {
      return;
    }
    for (const list of touched(event)) this.#wanted.add(list);
    if (event.Type === "image" || event.Type === "builder") this.builds += 1;
    if (this.#wanted.size && this.#timer === undefined) {
      this.#timer = setTimeout(() => {
        this.#timer = undefined;
        const wanted = [...this.#wanted];
        this.#wanted.clear();
        this.changes += 1;
        for (const list of wanted) void this[list].refresh();
      }, GATHER_MS);
    }
  }

  /** What is not shown by a list yet hears of it here: builds. */
  builds = $state(0);
  /** Programs for compose and builds, where they are there. */
  tools = $state.raw<{ compose: boolean; build: boolean; store: string | null }>({ compose: false, build: false, store: null });
  /** Operations that the engine has. */
  can = $state.raw(new Set<string>());

  async #ask() {
    const answer = await api().control({ control: "tools" }).catch(() => undefined);
    if (answer?.answer === "tools") this.tools = { compose: answer.compose !== null, build: answer.build !== null, store: answer.store };
    const features = await docker.features().catch(() => undefined);
    if (features) this.can = new Set(features.operations);
  }

  refreshAll() {
    void this.#ask();
    void sweep().catch(() => undefined);
    this.builds += 1;
    this.changes += 1;
    for (const list of [this.containers, this.images, this.volumes, this.networks]) void list.refresh();
  }

  async power(what: "start" | "stop" | "restart") {
    this.asked = what;
    try {
      if (what !== "start") await api().control({ control: "stop" });
      if (what !== "stop") await api().control({ control: "start" });
    } catch (error) {
      // The daemon's words stand in the machine's state where there is a daemon; else they are only here.
      notify("error", t("The engine could not be {v1}", { v1: what === "stop" ? "stopped" : "started" }), words(error));
    } finally {
      this.asked = undefined;
    }
  }

  async act(container: Container, action: ContainerAction | "remove", volumes = false): Promise<boolean> {
    const id = container.Id ?? "";
    if (this.pending.has(id)) return false;
    this.pending.set(id, WORD[action]);
    try {
      if (action === "remove") await docker.removeContainer(id, volumes);
      else await docker.act(id, action);
      await this.containers.refresh();
      return true;
    } catch (error) {
      notify("error", t("{v1} could not be {v2}", { v1: name(container), v2: DONE[action] }), words(error));
      return false;
    } finally {
      this.pending.delete(id);
    }
  }

  async all(containers: Container[], action: ContainerAction | "remove") {
    await Promise.all(containers.map((c) => this.act(c, action)));
  }

  async removeAll(containers: Container[], volumes: boolean) {
    await Promise.all(containers.map((c) => this.act(c, "remove", volumes)));
  }
}

const DONE: Record<ContainerAction | "remove", string> = {
  start: "started",
  stop: "stopped",
  restart: "restarted",
  pause: "paused",
  unpause: "resumed",
  kill: "killed",
  remove: "removed",
};

export const engine = new Engine();

/** Runs something that a person asked for; what goes wrong is said in the engine's words. */
export async function attempt<T>(failed: string, what: () => Promise<T>): Promise<T | undefined> {
  try {
    return await what();
  } catch (error) {
    notify("error", failed, words(error));
    return undefined;
  }
}



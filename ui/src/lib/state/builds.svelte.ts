// Builds: those that go on here, and those that the engine remembers.
import { api } from "../backend";
import type { Tool } from "../backend/words";
import { type Build, counted, none, record, type Record, share, take } from "../pure/build";
import { t } from "../texts";
import { List } from "./engine.svelte";
import { type Operation, operations } from "./operations.svelte";
import { notify, ui } from "./ui.svelte";

/** All that a program of the bridge says. */
function all(tool: Tool): Promise<string[]> {
  return new Promise((resolve, reject) => {
    const lines: string[] = [];
    api().open(
      { open: "tool", tool },
      {
        message: (message) => {
          if (message.message === "lines") lines.push(...message.lines);
          else if (message.message === "ended") resolve(lines);
          else if (message.message === "failed") reject(new Error(message.failure.message));
        },
      },
    );
  });
}

export const records = new List<Record>(async () => (await all({ tool: "builds" })).map(record).filter((r) => r !== undefined));

export async function details(ref: string): Promise<unknown> {
  return JSON.parse((await all({ tool: "build_record", id: ref })).join("\n"));
}

export async function log(ref: string): Promise<Build> {
  return take(none(), await all({ tool: "build_log", id: ref }));
}

export async function forget(ref: string): Promise<void> {
  await all({ tool: "build_forget", id: ref });
}

/** A build that was begun here. */
export class Building {
  progress = $state.raw<Build>(none());
  readonly operation: Operation;
  #waiting: string[] = [];
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(readonly asked: Extract<Tool, { tool: "build" }>) {
    const name = asked.tags[0] || asked.folder;
    this.operation = operations.stream(
      t("Build of {name}", { name }),
      { open: "tool", tool: asked },
      { line: (line) => this.#line(line), quiet: true },
    );
    this.operation.open = () => ui.go("builds", `own:${this.operation.id}`);
    void this.operation.done.then((ok) => {
      this.#flush();
      void records.refresh();
      // Where the build itself is shown, its reason stands there already.
      const seen = ui.section === "builds" && ui.selected.builds === `own:${this.operation.id}`;
      if (!ok && this.operation.state === "failed" && !seen) notify("error", t("{name} could not be built", { name }), this.operation.error, { label: t("Show"), run: () => this.operation.open?.() });
      if (ok) notify("done", t("{name} built", { name }), "", asked.tags[0] ? { label: t("Run it"), run: () => (ui.run = { image: asked.tags[0] ?? "" }) } : undefined);
    });
  }

  /** Lines come fast: they are taken in some times a second. */
  #line(line: string) {
    this.#waiting.push(line);
    this.#timer ??= setTimeout(() => this.#flush(), 100);
  }

  #flush() {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    if (!this.#waiting.length) return;
    this.progress = take(this.progress, this.#waiting);
    this.#waiting = [];
    const { done, all } = counted(this.progress);
    this.operation.fraction = share(this.progress);
    this.operation.status = t("{done} of {all} steps", { done, all });
  }
}

class Builds {
  own = $state.raw<Building[]>([]);
  dialog = $state<{ folder?: string } | undefined>();

  start(asked: Extract<Tool, { tool: "build" }>): Building {
    const building = new Building(asked);
    this.own = [building, ...this.own].slice(0, 20);
    return building;
  }
}
export const builds = new Builds();

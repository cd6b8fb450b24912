// What takes its time: pulls, pushes, builds, compose, files on their way. Each goes on while the person looks elsewhere,
// is told of in one place, and can be cancelled where its other side can.
import { untrack } from "svelte";

import { api, type Channel } from "../backend";
import type { Message, Open } from "../backend/words";
import { t } from "../texts";
import { notify } from "./ui.svelte";

/** How long one may take before it is shown. */
const QUIET_MS = 200;
/** Operations, and lines of each, that are kept. */
const MOST = 50;
const MOST_LINES = 2000;

export type OperationState = "running" | "done" | "failed" | "cancelled";
let count = 0;

export class Operation {
  readonly id = ++count;
  readonly began = Date.now();
  state = $state<OperationState>("running");
  /** Between 0 and 1; undefined while nobody can say. */
  fraction = $state<number | undefined>();
  status = $state("");
  error = $state("");
  lines = $state.raw<string[]>([]);
  /** Whether it has taken long enough to be told of. */
  shown = $state(false);
  /** Leads to what it is about. */
  open: (() => void) | undefined;
  readonly done: Promise<boolean>;
  #settle: (ok: boolean) => void = () => undefined;
  #stop: (() => void) | undefined;

  constructor(
    readonly title: string,
    stop?: () => void,
  ) {
    this.#stop = stop;
    this.done = new Promise((resolve) => (this.#settle = resolve));
    setTimeout(() => (this.shown = true), QUIET_MS);
  }

  say(lines: string[]) {
    this.lines = [...this.lines, ...lines].slice(-MOST_LINES);
  }

  end(state: Exclude<OperationState, "running">, error = "") {
    if (this.state !== "running") return;
    this.state = state;
    this.error = error;
    if (state === "done") this.fraction = 1;
    this.#settle(state === "done");
  }

  get cancellable(): boolean {
    return this.#stop !== undefined && this.state === "running";
  }

  cancel() {
    if (!this.cancellable) return;
    this.#stop?.();
    this.end("cancelled");
  }
}

class Operations {
  all = $state.raw<Operation[]>([]);
  open = $state(false);
  /** The one whose details are open. */
  chosen = $state<number | undefined>();

  get running(): Operation[] {
    return this.all.filter((o) => o.state === "running" && o.shown);
  }

  add(operation: Operation): Operation {
    const kept = untrack(() => this.all.filter((o) => o.state === "running" || o.shown));
    this.all = [operation, ...kept].slice(0, MOST);
    return operation;
  }

  clear() {
    this.all = this.all.filter((o) => o.state === "running");
  }

  /** One request that takes its time. Its failure is the caller's to tell. */
  async during<T>(title: string, work: () => Promise<T>): Promise<T> {
    const operation = this.add(new Operation(title));
    try {
      const done = await work();
      operation.end("done");
      return done;
    } catch (error) {
      operation.end("failed", error instanceof Error ? error.message : String(error));
      throw error;
    }
  }

  /** Opens a stream as an operation; each line goes to `line`, which may tell of its progress. */
  stream(title: string, what: Open, hear: { line?: (line: string, operation: Operation) => void; quiet?: boolean; failed?: string } = {}): Operation {
    let channel: Channel | undefined;
    let sent = false;
    const operation = this.add(new Operation(title, () => channel?.close()));
    const message = (message: Message) => {
      switch (message.message) {
        case "lines":
          if (hear.line) for (const line of message.lines) hear.line(line, operation);
          else operation.say(message.lines);
          break;
        case "moved":
          if (sent) break;
          operation.fraction = message.of ? message.bytes / message.of : undefined;
          // What is sent whole is not done: from here on only the engine knows how far it is.
          sent = what.open === "send" && message.of !== null && message.bytes >= message.of;
          if (sent) [operation.fraction, operation.status] = [undefined, t("sent; the engine works on it")];
          break;
        case "failed":
          operation.end("failed", message.failure.message);
          break;
        case "ended":
          operation.end(operation.error ? "failed" : "done", operation.error);
          break;
      }
      if (operation.state === "failed" && (message.message === "failed" || message.message === "ended") && !hear.quiet) {
        notify("error", hear.failed ?? t("{title}: it failed", { title }), operation.error, {
          label: t("Details"),
          run: () => {
            this.chosen = operation.id;
            this.open = true;
          },
        });
      }
    };
    channel = api().open(what, { message });
    return operation;
  }
}

export const operations = new Operations();

/** A line of the engine's progress (`status`, `progressDetail`, `error`): text for the list of lines, state for the bar. */
export function engineLine(line: string, operation: Operation) {
  let said: { status?: unknown; stream?: unknown; error?: unknown; id?: unknown; progressDetail?: { current?: number; total?: number } };
  try {
    said = JSON.parse(line);
  } catch {
    operation.say([line]);
    return;
  }
  if (typeof said.error === "string") operation.error = said.error;
  const text = typeof said.stream === "string" ? said.stream.trimEnd() : typeof said.status === "string" ? said.status : "";
  if (said.progressDetail?.total) operation.fraction = Math.min(1, (said.progressDetail.current ?? 0) / said.progressDetail.total);
  if (!text) return;
  operation.status = said.id ? `${String(said.id)}: ${text}` : text;
  if (!said.progressDetail?.total) operation.say([operation.status]);
}

// The one way out of the user interface. Two implementations: the window's, and HTTP for a plain browser.
import type { Control, ControlAnswer, Failure, Input, Message, Open } from "./words";
import { t } from "../texts";

/** What the engine answered. */
export interface Answer {
  status: number;
  text: string;
}

/** An open stream; closing it ends it on the other side as well. */
export interface Channel {
  send(input: Input): void;
  write(bytes: Uint8Array): void;
  close(): void;
}

/** Who hears what comes from a stream. `message` gets `ended` or `failed` last. */
export interface Listener {
  message(message: Message): void;
  bytes?(bytes: Uint8Array): void;
}

export interface Request {
  method: string;
  /** The engine's path with its query. */
  path: string;
  /** JSON text, or bytes. */
  body?: string | Uint8Array;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Of newer releases: this build looks nowhere, is the newest, or `page` has a newer one (none: it can be installed from here). */
export type News = { updates: "nowhere" } | { updates: "none" } | { updates: "newer"; version: string; notes: string | null; page: string | null };

export interface Backend {
  /** The window's system, for the names of keys. */
  readonly kind: "window" | "browser";
  /** One request to the engine. Rejects with {@link Unreachable} when the engine does not answer at all. */
  docker(request: Request): Promise<Answer>;
  /** The same, for an answer that is not text. Rejects with {@link EngineError} when the engine refuses. */
  bytes(request: Request): Promise<Uint8Array>;
  control(request: Control): Promise<ControlAnswer>;
  open(what: Open, listener: Listener): Channel;
  /** Opens a page of this computer in the person's browser. */
  openUrl(url: string): Promise<void>;
  /** Whether the app starts at login, and sets it; absent where nothing can. */
  autostart?(wanted?: boolean): Promise<boolean>;
  /** Looks for a newer release; absent where nobody can. */
  updates?(): Promise<News>;
  /** Installs it and starts it. */
  update?(): Promise<void>;
  /** Hears where the tray and `coracle://` links lead: `settings`, `containers/<id>/logs`. */
  places?(hear: (place: string) => void): void;
  /** Asks for a file or folder by the system's own dialog; absent where there is none: then its path is typed. */
  pick?(kind: "folder" | "open" | "save", name?: string): Promise<string | undefined>;
  /** Shows a folder in the system's file manager; absent where there is none. */
  openFolder?(path: string): Promise<void>;
  /** Keeps bytes as a file where the person says. */
  save(name: string, bytes: Uint8Array): Promise<void>;
}

/** The engine or the daemon said no, in its own words. */
export class EngineError extends Error {
  constructor(
    readonly status: number,
    message: string,
  ) {
    super(message);
    this.name = "EngineError";
  }
}

/** Nobody answered. */
export class Unreachable extends Error {
  constructor(readonly failure: Failure) {
    super(failure.message);
    this.name = "Unreachable";
  }
}

/** The engine's words out of the body of an error. */
export function engineWords(answer: Answer): string {
  try {
    const body: unknown = JSON.parse(answer.text);
    if (body && typeof body === "object" && "message" in body && typeof body.message === "string") return body.message;
  } catch {
    // Not JSON: the text itself.
  }
  return answer.text.trim() || t("the engine answered {v1} without a word", { v1: answer.status });
}

let backend: Backend | undefined;

export function setBackend(chosen: Backend) {
  backend = chosen;
}

export function api(): Backend {
  if (!backend) throw new Error("no backend");
  return backend;
}

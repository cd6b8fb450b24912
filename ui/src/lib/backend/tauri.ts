// The window's implementation: the only file that imports @tauri-apps.
import { Channel as Ipc, invoke } from "@tauri-apps/api/core";
import { listen } from "@tauri-apps/api/event";

import { type Answer, type Backend, type Channel, EngineError, engineWords, type Listener, type News, type Request, Unreachable } from "./index";
import type { Control, ControlAnswer, Failure, Input, Message, Open } from "./words";

let streams = 0;

async function call<T>(command: string, args: Record<string, unknown> | Uint8Array, headers?: Record<string, string>) {
  try {
    return await invoke<T>(command, args, headers ? { headers } : undefined);
  } catch (error) {
    const failure = error as Failure;
    throw new Unreachable(failure?.message ? failure : { code: "window", status: null, message: String(error) });
  }
}

function decode(base64: string): Uint8Array {
  return Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));
}

/** Status in two bytes, then the body: what the shell's command `docker` answers. */
async function send(request: Request): Promise<{ status: number; body: Uint8Array }> {
  const body = typeof request.body === "string" ? new TextEncoder().encode(request.body) : (request.body ?? new Uint8Array());
  const kind = typeof request.body === "string" ? "application/json" : "application/x-tar";
  const answer = await call<ArrayBuffer>("docker", body, {
    "x-method": request.method,
    "x-path": encodeURIComponent(request.path),
    "x-type": kind,
  });
  const bytes = new Uint8Array(answer);
  request.signal?.throwIfAborted();
  return { status: ((bytes[0] ?? 0) << 8) | (bytes[1] ?? 0), body: bytes.subarray(2) };
}

export function tauri(): Backend {
  return {
    kind: "window",
    async docker(request) {
      const { status, body } = await send(request);
      return { status, text: new TextDecoder().decode(body) } satisfies Answer;
    },
    async bytes(request) {
      const { status, body } = await send(request);
      if (status >= 400) throw new EngineError(status, engineWords({ status, text: new TextDecoder().decode(body) }));
      return body;
    },
    control: (request: Control) => call<ControlAnswer>("control", { request }),
    open(what: Open, listener: Listener): Channel {
      const id = ++streams;
      let over = false;
      const channel = new Ipc<Message | { bytes: string }>((data) => {
        if (over) return;
        if (!("message" in data)) {
          listener.bytes?.(decode(data.bytes));
          return;
        }
        over = data.message === "ended" || data.message === "failed";
        listener.message(data);
      });
      // In order: what is said to a stream waits until it is open.
      let last: Promise<unknown> = call("open", { id, what, channel }).catch((error: Unreachable) => {
        if (!over) listener.message({ message: "failed", failure: error.failure });
        over = true;
      });
      const next = (command: string, args: Record<string, unknown>) => {
        last = last.then(() => call(command, args)).catch(() => undefined);
      };
      return {
        send: (input: Input) => next("say", { id, input }),
        write: (bytes: Uint8Array) => next("type_in", { id, bytes: Array.from(bytes) }),
        close() {
          over = true;
          next("close", { id });
        },
      };
    },
    autostart: (wanted?: boolean) => call<boolean>("autostart", { wanted }),
    updates: () => call<News>("updates", {}),
    update: () => call<void>("update", {}),
    places(hear) {
      const ask = async () => {
        const place = await call<string | null>("place", {});
        if (place) hear(place);
      };
      // A link may have started this program: it came before anybody listened.
      void listen("go", ask).then(ask);
    },
    async pick(kind, name) {
      return (await call<string | null>("pick", { kind, name: name ?? null })) ?? undefined;
    },
    openFolder: (path) => call("open_folder", { path }),
    openUrl: (url) => call("open_url", { url }),
    save: (name, bytes) => call("save", bytes, { "x-name": encodeURIComponent(name) }),
  };
}

import { type Answer, type Backend, type Channel, EngineError, engineWords, type Listener, type Request, Unreachable } from "./index";
import type { Control, ControlAnswer, Failure, Input, Message, Open } from "./words";
import { t } from "../texts";

const KEPT = "coracle.token";
const CLOSED: Failure = { code: "bridge", status: null, message: t("the bridge to the app is closed; it is tried again") };

/** The token stands in the address's fragment once; then it is kept for this tab and taken out of sight. */
function token(): string {
  const given = /^#token=([0-9a-f]+)$/.exec(location.hash)?.[1];
  if (given) {
    sessionStorage.setItem(KEPT, given);
    history.replaceState(null, "", location.pathname);
  }
  return given ?? sessionStorage.getItem(KEPT) ?? "";
}

export function http(): Backend {
  const secret = token();
  const auth = { "x-coracle-token": secret };

  async function send(request: Request): Promise<Response> {
    let response: Response;
    try {
      response = await fetch(`/docker${request.path}`, {
        method: request.method,
        headers: {
          ...auth,
          ...(typeof request.body === "string" ? { "content-type": "application/json" } : {}),
          ...request.headers,
        },
        body: request.body as BodyInit | undefined,
        signal: request.signal ?? null,
      });
    } catch (error) {
      if (request.signal?.aborted) throw error;
      throw new Unreachable(CLOSED);
    }
    if (response.headers.get("x-coracle-failure")) throw new Unreachable((await response.json()) as Failure);
    return response;
  }

  return {
    kind: "browser",
    async docker(request) {
      const response = await send(request);
      return { status: response.status, text: await response.text() } satisfies Answer;
    },
    async bytes(request) {
      const response = await send(request);
      if (!response.ok) {
        throw new EngineError(response.status, engineWords({ status: response.status, text: await response.text() }));
      }
      return new Uint8Array(await response.arrayBuffer());
    },
    async control(request: Control) {
      let response: Response;
      try {
        response = await fetch("/control", { method: "POST", headers: auth, body: JSON.stringify(request) });
      } catch {
        throw new Unreachable(CLOSED);
      }
      if (!response.ok) {
        const text = await response.text();
        const ours = response.headers.get("x-coracle-failure");
        throw new Unreachable(ours ? (JSON.parse(text) as Failure) : { code: "bridge", status: response.status, message: text });
      }
      return (await response.json()) as ControlAnswer;
    },
    open(what: Open, listener: Listener): Channel {
      const socket = new WebSocket(`ws://${location.host}/open`, ["coracle", `token.${secret}`]);
      socket.binaryType = "arraybuffer";
      let over = false;
      const waiting: (string | Uint8Array)[] = [];
      const push = (data: string | Uint8Array) => {
        if (socket.readyState === WebSocket.OPEN) socket.send(data as Uint8Array<ArrayBuffer>);
        else if (socket.readyState === WebSocket.CONNECTING) waiting.push(data);
      };
      socket.onopen = () => {
        socket.send(JSON.stringify(what));
        for (const data of waiting.splice(0)) push(data);
      };
      socket.onmessage = (event) => {
        if (over) return;
        if (typeof event.data !== "string") {
          listener.bytes?.(new Uint8Array(event.data as ArrayBuffer));
          return;
        }
        const message = JSON.parse(event.data) as Message;
        over = message.message === "ended" || message.message === "failed";
        listener.message(message);
      };
      socket.onclose = () => {
        if (over) return;
        over = true;
        listener.message({ message: "failed", failure: CLOSED });
      };
      return {
        send: (input: Input) => push(JSON.stringify(input)),
        write: push,
        close() {
          over = true;
          socket.close();
        },
      };
    },
    /** As links reach the window; in a browser whoever drives it says them. */
    places(hear) {
      window.addEventListener("coracle-go", (event) => hear(String((event as CustomEvent).detail)));
    },
    async openUrl(url) {
      window.open(url, "_blank", "noopener,noreferrer");
    },
    async save(name, bytes) {
      const url = URL.createObjectURL(new Blob([bytes as Uint8Array<ArrayBuffer>]));
      const link = document.createElement("a");
      link.href = url;
      link.download = name;
      link.click();
      URL.revokeObjectURL(url);
    },
  };
}

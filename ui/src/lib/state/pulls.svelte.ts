// Pulls go on while the person looks elsewhere.
import { api, type Channel } from "../backend";
import { path } from "../docker/client";
import { nothing, progress, type Pull, reference } from "../pure/pull";

export class Pulling {
  progress = $state.raw<Pull>(nothing());
  state = $state<"pulling" | "done" | "failed" | "cancelled">("pulling");
  #channel: Channel | undefined;
  readonly done: Promise<boolean>;

  constructor(readonly image: string) {
    const { name, tag } = reference(image) ?? { name: image, tag: "latest" };
    let settle: (ok: boolean) => void = () => undefined;
    this.done = new Promise((resolve) => (settle = resolve));
    this.#settle = settle;
    this.#channel = api().open(
      { open: "lines", method: "POST", path: path("/images/create", { fromImage: name, tag }) },
      {
        message: (message) => {
          if (message.message === "lines") {
            let now = this.progress;
            for (const line of message.lines) now = progress(now, line);
            this.progress = now;
          } else if (message.message === "failed") this.#end("failed", message.failure.message);
          else if (message.message === "ended") this.#end(this.progress.error ? "failed" : "done");
        },
      },
    );
  }
  #settle: (ok: boolean) => void;

  #end(state: "done" | "failed" | "cancelled", error?: string) {
    this.state = state;
    if (error) this.progress = { ...this.progress, error };
    this.#settle(state === "done");
  }

  /** The engine ends a pull whose client goes away. */
  cancel() {
    this.#channel?.close();
    this.#end("cancelled");
  }
}

// Pulls go on while the person looks elsewhere.
import { api, type Channel } from "../backend";
import { path } from "../docker/client";
import { registryOf } from "../pure/paths";
import { fraction, nothing, progress, type Pull, reference } from "../pure/pull";
import { t } from "../texts";
import { Operation, operations } from "./operations.svelte";

export class Pulling {
  progress = $state.raw<Pull>(nothing());
  readonly operation: Operation;
  readonly done: Promise<boolean>;

  /** A pull, or with `push` the other way. */
  constructor(
    readonly image: string,
    readonly push = false,
  ) {
    const { name, tag } = reference(image) ?? { name: image, tag: "latest" };
    let channel: Channel | undefined;
    this.operation = operations.add(new Operation(push ? t("Push of {image}", { image }) : t("Pull of {image}", { image }), () => channel?.close()));
    this.done = this.operation.done;
    const where = push ? path(`/images/${name}/push`, { tag }) : path("/images/create", { fromImage: name, tag });
    channel = api().open(
      { open: "lines", method: "POST", path: where, registry: registryOf(image) },
      {
        message: (message) => {
          if (message.message === "lines") {
            let now = this.progress;
            for (const line of message.lines) now = progress(now, line);
            this.progress = now;
            this.operation.status = now.status;
            this.operation.fraction = fraction(now);
            // Nothing comes after an error: the two are never shown beside each other.
            if (now.error) this.#end(now.error);
          } else if (message.message === "failed") this.#end(message.failure.message);
          else if (message.message === "ended") this.#end(this.progress.error ?? "");
        },
      },
    );
  }

  get state() {
    return this.operation.state;
  }

  #end(error: string) {
    if (error) this.progress = { ...this.progress, error };
    this.operation.end(error ? "failed" : "done", error);
  }

  /** The engine ends a pull or push whose client goes away. */
  cancel() {
    this.operation.cancel();
  }
}

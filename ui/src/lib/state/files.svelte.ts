// Where a browser of files gets its folders from.
import { api, type Channel } from "../backend";
import type { Entry } from "../backend/words";
import { docker } from "../docker/client";
import { frames, join, listing } from "../pure/files";
import { t } from "../texts";

export interface Source {
  list(path: string): Promise<Entry[]>;
  /** Bytes that were read so far, while it is still being read whole. */
  readonly reading: number | undefined;
  close(): void;
}

/** There is no `ls` in the container. */
export class NoList extends Error {}

/** A running container: its own `ls`, so that what is there now is shown. */
export class LiveSource implements Source {
  readonly reading = undefined;
  constructor(readonly id: string) {}

  async list(path: string): Promise<Entry[]> {
    const exec = await docker.exec(this.id, ["ls", "-lAn", "--", path], false);
    const bytes = await api().bytes({ method: "POST", path: `/exec/${exec.Id}/start`, body: JSON.stringify({ Detach: false, Tty: false }) });
    const { out, err } = frames(bytes);
    const code = await docker.execCode(exec.Id);
    if (code === 126 || code === 127) throw new NoList(t("There is no `ls` in this container."));
    if (code !== 0 && !out) throw new Error(err.trim() || t("ls ended with code {code}", { code: code ?? "?" }));
    return listing(out);
  }

  close() {}
}

/** What does not change meanwhile: read once, as the engine's archive, and kept in Rust. */
export class TreeSource implements Source {
  reading = $state<number | undefined>(0);
  #channel: Channel;
  #waiting = new Map<number, { resolve: (entries: Entry[]) => void; reject: (error: Error) => void }>();
  #question = 0;
  #failed: Error | undefined;

  /** `root` is the folder of the container that is shown as `/`. */
  constructor(container: string, root: string) {
    this.#channel = api().open(
      { open: "tree", container, path: root },
      {
        message: (message) => {
          if (message.message === "moved") this.reading = message.bytes;
          else if (message.message === "opened") this.reading = undefined;
          else if (message.message === "folder") {
            const asked = this.#waiting.get(message.id);
            this.#waiting.delete(message.id);
            if (message.entries) asked?.resolve(message.entries);
            else asked?.reject(new Error(t("There is no such folder.")));
          } else if (message.message === "failed" || message.message === "ended") {
            this.#failed = new Error(message.message === "failed" ? message.failure.message : t("It was not read to its end."));
            for (const asked of this.#waiting.values()) asked.reject(this.#failed);
            this.#waiting.clear();
          }
        },
      },
    );
  }

  list(path: string): Promise<Entry[]> {
    if (this.#failed) return Promise.reject(this.#failed);
    const id = ++this.#question;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.#channel.send({ input: "folder", id, path });
    });
  }

  close() {
    this.#channel.close();
  }
}

/** Where a path of the browser is in the container. */
export function inside(root: string, path: string): string {
  return root === "/" ? path : join(root, path);
}

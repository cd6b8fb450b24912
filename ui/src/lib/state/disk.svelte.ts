// What is on the disk: one answer of the engine's, and every screen shows its figures.
import { docker, type DiskUse, HELPER, type Prunable } from "../docker/client";
import { engine, words } from "./engine.svelte";

/** It costs the engine a walk over the volumes' files: not more often than this. */
const PAUSE_MS = 2000;

class Disk {
  use = $state.raw<DiskUse | undefined>();
  /** What a prune of images would free, by choice; undefined where the engine can't tell. */
  images = $state.raw<{ unnamed: Prunable; unused: Prunable } | undefined>();
  error = $state("");
  readonly #volumes = $derived(new Map((this.use?.Volumes ?? []).map((v) => [v.Name, v.UsageData?.Size])));
  #reading: Promise<void> | undefined;
  #again = false;
  #hurry = false;
  #wake: (() => void) | undefined;

  /**
   * Reads it; asked meanwhile, it is read once more. Done when what was there at the call is shown. `now`: somebody
   * waits for it, so there is no pause before.
   */
  refresh(now = false): Promise<void> {
    if (now) {
      this.#hurry = true;
      this.#wake?.();
    }
    if (this.#reading) this.#again = true;
    else this.#reading = this.#read().finally(() => (this.#reading = undefined));
    return this.#reading;
  }

  async #read() {
    for (;;) {
      this.#again = this.#hurry = false;
      try {
        const can = engine.can.has("CoraclePrunable");
        const [use, unnamed, unused] = await Promise.all([docker.diskUse(), can ? docker.prunable(false) : undefined, can ? docker.prunable(true) : undefined]);
        this.use = { ...use, Containers: use.Containers?.filter((c) => !c.Labels?.[HELPER]) ?? null };
        this.images = unnamed && unused && { unnamed, unused };
        this.error = "";
      } catch (error) {
        this.error = words(error);
        return;
      }
      if (!this.#again) return;
      if (this.#hurry) continue;
      await new Promise<void>((done) => {
        this.#wake = done;
        setTimeout(done, PAUSE_MS);
      });
      this.#wake = undefined;
    }
  }

  /** Bytes of all images, layers that several share counted once. */
  get layers(): number | undefined {
    return this.use?.LayersSize;
  }

  volume(name: string): number | undefined {
    return this.#volumes.get(name);
  }
}

export const disk = new Disk();

/**
 * Called by a screen that shows it: it is read while the screen is there, whenever something has changed; where only
 * images are shown, what containers do changes nothing.
 */
export function watchDisk(imagesAlone = false) {
  $effect(() => {
    if (!imagesAlone) void engine.changes;
    void engine.can;
    void engine.images.items;
    void engine.volumes.items;
    void disk.refresh();
  });
}

// Frees the disk of what nobody needs: each question says what would go, as the engine counts it.
import { docker } from "../docker/client";
import { size } from "../pure/format";
import { parts } from "../pure/usage";
import { t, tn } from "../texts";
import { disk } from "./disk.svelte";
import { attempt, engine } from "./engine.svelte";
import { confirm, notify, type Question } from "./ui.svelte";

export type Prunes = "containers" | "images" | "volumes" | "builds";

type Asked = Omit<Question, "answer" | "verb"> & { verb?: string };

function question(what: Prunes): Asked {
  const [first, all] = parts(disk.use ?? {}, disk.images).find((p) => p.what === what)?.choices ?? [];
  const freed = first ? t("{size} are freed.", { size: size(first.bytes) }) : "";
  switch (what) {
    case "containers":
      return { title: first ? tn("Remove {n} stopped container?", "Remove {n} stopped containers?", first.count) : t("Remove stopped containers?"), text: `${t("What they wrote outside of volumes is lost. Running containers stay.")} ${freed}` };
    case "images":
      if (!first || !all) return { title: t("Remove unused images?"), text: t("Images without a name go. Those that a container uses stay."), option: t("Also those that have a name") };
      return {
        title: t("Remove unused images?"),
        text: `${first.count ? tn("{n} image without a name goes: {size}.", "{n} images without a name go: {size}.", first.count, { size: size(first.bytes) }) : t("There is none without a name.")} ${t("Those that a container uses stay.")}`,
        ...(all.count > first.count ? { option: tn("Also those that have a name: {n} image in all, {size}", "Also those that have a name: {n} images in all, {size}", all.count, { size: size(all.bytes) }) } : {}),
        needed: !first.count,
      };
    case "volumes": {
      const names = unusedVolumes();
      return { title: tn("Remove {n} unused volume?", "Remove {n} unused volumes?", names.length), text: `${t("All their data is lost: {names}.", { names: brief(names) })} ${t("There is no way back.")} ${freed}`, verb: t("Remove the volumes") };
    }
    case "builds":
      return { title: t("Remove the build cache?"), text: `${t("Builds to come take longer, until what they need is there again. Images stay.")} ${freed}` };
  }
}

/** Names of volumes that a prune would take. Those with options lead to somebody's own place: they stay. */
export function unusedVolumes(): string[] {
  return (disk.use?.Volumes ?? []).filter((v) => !v.UsageData?.RefCount && !Object.keys(v.Options ?? {}).length).map((v) => v.Name);
}
const MOST_NAMES = 6;
const brief = (names: string[]) => names.slice(0, MOST_NAMES).map((n) => (/^[0-9a-f]{64}$/.test(n) ? n.slice(0, 12) : n)).join(", ") + (names.length > MOST_NAMES ? ", …" : "");

export async function prune(what: Prunes) {
  // What was read a while ago may not be true any more.
  await disk.refresh(true);
  const yes = await confirm({ verb: t("Remove"), ...question(what) });
  if (!yes) return;
  const act: Record<Prunes, () => Promise<{ SpaceReclaimed?: number; gone: string }>> = {
    containers: async () => {
      const done = await docker.pruneContainers();
      return { ...done, gone: tn("{n} container removed", "{n} containers removed", done.ContainersDeleted?.length ?? 0) };
    },
    images: async () => ({ ...(await docker.pruneImages(yes.option)), gone: t("Unused images removed") }),
    volumes: async () => {
      const done = await docker.pruneVolumes();
      return { ...done, gone: tn("{n} volume removed", "{n} volumes removed", done.VolumesDeleted?.length ?? 0) };
    },
    builds: async () => ({ ...(await docker.pruneBuilds()), gone: t("Build cache removed") }),
  };
  const done = await attempt(t("It could not be removed"), act[what]);
  if (done) notify("done", done.gone, t("{size} freed", { size: size(done.SpaceReclaimed) }));
  await Promise.all([disk.refresh(true), ...(what === "builds" ? [] : [engine[what].refresh()])]);
}

// Whether registries have newer images under the names that are here. Asked when a person asks, never by itself.
import { SvelteMap } from "svelte/reactivity";

import { api, type Channel } from "../backend";
import { type Image, path } from "../docker/client";
import { registryOf } from "../pure/paths";
import { t, tn } from "../texts";
import { engine } from "./engine.svelte";
import { Operation, operations } from "./operations.svelte";
import { notify } from "./ui.svelte";

/** How many registries' answers are waited for at once. */
const AT_ONCE = 4;

/** What the registry has under a name: by the name, the digest. */
const found = new SvelteMap<string, string>();

const names = (image: Image) => (image.RepoTags ?? []).filter((tag) => tag !== "<none>:<none>");
const digests = (image: Image) => [image.Id, ...(image.RepoDigests ?? []).map((d) => d.slice(d.indexOf("@") + 1))];

/** The names of an image under which a registry has another one now. */
export function newer(image: Image): string[] {
  const own = digests(image);
  return names(image).filter((name) => {
    const there = found.get(name);
    return there !== undefined && !own.includes(there);
  });
}

/** Asks for one name; undefined where no registry has it, or none answers. */
function ask(name: string, opened: (channel: Channel) => void): Promise<string | undefined> {
  return new Promise((resolve) => {
    let text = "";
    const channel = api().open(
      { open: "lines", method: "GET", path: path(`/distribution/${name}/json`, {}), registry: registryOf(name) },
      {
        message: (message) => {
          if (message.message === "lines") text += message.lines.join("\n");
          else if (message.message === "failed") resolve(undefined);
          else if (message.message === "ended") {
            try {
              const answer = JSON.parse(text) as { Descriptor?: { digest?: string } };
              resolve(answer.Descriptor?.digest);
            } catch {
              resolve(undefined);
            }
          }
        },
      },
    );
    opened(channel);
  });
}

/** Asks for all names of these images. */
export async function look(images: Image[]) {
  const open = new Set<Channel>();
  let stopped = false;
  const operation = operations.add(
    new Operation(t("Look for newer images"), () => {
      stopped = true;
      for (const channel of open) channel.close();
    }),
  );
  const waiting = images.filter((i) => (i.RepoDigests ?? []).length).flatMap(names);
  const all = waiting.length;
  let silent = 0;
  const worker = async () => {
    for (let name = waiting.shift(); name !== undefined && !stopped; name = waiting.shift()) {
      operation.status = name;
      let own: Channel | undefined;
      const digest = await ask(name, (channel) => open.add((own = channel)));
      if (own) open.delete(own);
      if (digest) found.set(name, digest);
      else silent += 1;
      operation.fraction = all ? 1 - waiting.length / all : 1;
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, worker));
  if (stopped) return;
  operation.end("done");
  const many = engine.images.items.filter((i) => newer(i).length).length;
  const rest = silent ? tn("Of {n} name no registry told anything.", "Of {n} names no registry told anything.", silent) : "";
  notify("done", many ? tn("{n} image has a newer one", "{n} images have newer ones", many) : t("No newer images"), rest);
}

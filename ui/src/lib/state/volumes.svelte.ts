// Files of volumes. Docker's API reaches a volume only through a container that has it; one that is made of an empty
// image and never started does, and goes when it has served. Lists leave these out by their label.
import { api, EngineError, engineWords } from "../backend";
import { docker, HELPER, path as url } from "../docker/client";
import { t } from "../texts";
import { engine, words } from "./engine.svelte";
import { ask, choose } from "./form.svelte";
import { operations } from "./operations.svelte";
import { notify } from "./ui.svelte";

const IMAGE = "coracle/files:2";
/** Where a volume is in its helper. */
export const ROOT = "/volume";

/** An image with nothing in it. */
async function image() {
  try {
    await docker.image(IMAGE);
  } catch (error) {
    if (!(error instanceof EngineError) || error.status !== 404) throw error;
    const [repo = "", tag = ""] = IMAGE.split(":");
    const answer = await api().docker({
      method: "POST",
      path: url("/images/create", { fromSrc: "-", repo, tag, changes: `LABEL ${HELPER}=files` }),
      // An archive without entries.
      body: new Uint8Array(1024),
      headers: { "content-type": "application/x-tar" },
    });
    if (answer.status >= 400) throw new EngineError(answer.status, engineWords(answer));
  }
}

/** A container that has these volumes, by the folders they are at. */
export async function helper(mounts: Record<string, string>): Promise<string> {
  await image();
  const made = await docker.create("", {
    Image: IMAGE,
    Cmd: ["-"],
    Labels: { [HELPER]: "files" },
    NetworkDisabled: true,
    HostConfig: { Mounts: Object.entries(mounts).map(([Target, Source]) => ({ Type: "volume", Source, Target })), NetworkMode: "none" },
  } as Parameters<typeof docker.create>[1]);
  return made.Id;
}

const dropped = new Map<string, Promise<void>>();
/** Removes a helper; whoever asks for it meanwhile waits for the same end. */
export function drop(id: string): Promise<void> {
  const before = dropped.get(id);
  if (before) return before;
  const end = docker
    .removeContainer(id)
    .catch(() => undefined)
    .finally(() => dropped.delete(id));
  dropped.set(id, end);
  return end;
}

/** Helpers by which a person looks into volumes, and of which. */
const looks = new Map<string, string>();
export async function look(volume: string): Promise<string> {
  const id = await helper({ [ROOT]: volume });
  looks.set(id, volume);
  return id;
}
export async function lookAway(id: string) {
  await drop(id);
  looks.delete(id);
}
/** Nobody looks into the volume any more: it can be removed. */
export async function unseen(volume: string) {
  await Promise.all([...looks].filter(([, of]) => of === volume).map(([id]) => lookAway(id)));
}

export async function exportTo(name: string) {
  const file = await choose("save", t("Export the files of {name}", { name }), `${name.slice(0, 40)}.tar`);
  if (!file) return;
  try {
    const id = await helper({ [ROOT]: name });
    const title = t("Export of the volume {name}", { name });
    const operation = operations.stream(title, { open: "receive", path: url(`/containers/${id}/archive`, { path: `${ROOT}/.` }), file }, { failed: t("{name} could not be exported", { name }) });
    const ok = await operation.done;
    await drop(id);
    if (ok) notify("done", t("{name} exported", { name }), file);
  } catch (error) {
    notify("error", t("{name} could not be exported", { name }), words(error));
  }
}

async function fill(name: string, file: string): Promise<boolean> {
  const id = await helper({ [ROOT]: name });
  const operation = operations.stream(
    t("Import into the volume {name}", { name }),
    { open: "send", method: "PUT", path: url(`/containers/${id}/archive`, { path: ROOT }), file, pack: false },
    { failed: t("The files could not be imported into {name}", { name }) },
  );
  const ok = await operation.done;
  await drop(id);
  if (ok) notify("done", t("Files imported into {name}", { name }));
  return ok;
}

export async function importInto(name: string) {
  const file = await choose("open", t("Import files into {name}: a tar archive", { name }));
  if (!file) return;
  await fill(name, file).catch((error) => notify("error", t("The files could not be imported into {name}", { name }), words(error)));
}

/** A new volume with the files of an exported one. */
export function restore(check: (value: string) => string) {
  ask({
    title: t("A volume of an exported one"),
    fields: [
      { key: "file", label: t("Archive"), kind: "open", placeholder: "/home/me/data.tar", hint: t("A tar archive, as the export of a volume makes it.") },
      { key: "name", label: t("Name"), placeholder: "data", check },
    ],
    verb: t("Make it"),
    run: async (values) => {
      const made = await docker.createVolume(values.name ?? "");
      if (!(await fill(made.Name, values.file ?? ""))) throw new Error(t("The volume was made, but the files could not be imported."));
      await engine.volumes.refresh();
    },
  });
}

export async function clone(name: string, to: string) {
  try {
    await docker.createVolume(to);
    const id = await helper({ "/from": name, "/to": to });
    const operation = operations.stream(
      t("Clone of the volume {name}", { name }),
      { open: "copy", from: url(`/containers/${id}/archive`, { path: "/from/." }), to: url(`/containers/${id}/archive`, { path: "/to" }) },
      { failed: t("{name} could not be cloned", { name }) },
    );
    const ok = await operation.done;
    await drop(id);
    if (ok) notify("done", t("{name} cloned", { name }), to);
  } catch (error) {
    notify("error", t("{name} could not be cloned", { name }), words(error));
  }
}

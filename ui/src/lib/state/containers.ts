// What can be done with a container beside starting and stopping it: the same in its screen and in the menu of its row.
import { type Container, docker } from "../docker/client";
import { isRunning, name, published } from "../pure/containers";
import { reference } from "../pure/pull";
import { fromContainer, line, memory, type RunForm, service } from "../pure/run";
import { t } from "../texts";
import { attempt, engine } from "./engine.svelte";
import { ask, choose } from "./form.svelte";
import { operations } from "./operations.svelte";
import { openPage } from "./pages";
import { copy, type MenuItem, notify, ui } from "./ui.svelte";

const read = (container: Container) => attempt(t("The container’s settings could not be read"), () => form(container.Id ?? ""));
async function copied(container: Container, text: (form: RunForm) => string, what: string) {
  const made = await read(container);
  if (made) await copy(text(made), what);
}
async function form(id: string) {
  const found = await docker.container(id);
  const image = await docker.image(found.Image ?? "").catch(() => undefined);
  return fromContainer(found, image);
}
async function again(container: Container) {
  const made = await read(container);
  if (made) ui.run = { image: made.image, form: { ...made, name: "" } };
}
function rename(container: Container) {
  const title = name(container);
  ask({
    title: t("Rename {name}", { name: title }),
    fields: [
      {
        key: "name",
        label: t("Name"),
        value: title,
        check: (value) =>
          !/^[a-zA-Z0-9][a-zA-Z0-9_.-]+$/.test(value)
            ? t("Two or more letters, digits, _ . or -, the first a letter or digit")
            : value !== title && engine.containers.items.some((c) => name(c) === value)
              ? t("A container has this name already")
              : "",
      },
    ],
    verb: t("Rename"),
    run: async (values) => {
      if (values.name !== title) await docker.rename(container.Id ?? "", values.name ?? "");
      await engine.containers.refresh();
    },
  });
}
async function limits(container: Container) {
  const [id, title] = [container.Id ?? "", name(container)];
  const host = (await attempt(t("The container’s settings could not be read"), () => docker.container(id)))?.HostConfig;
  if (!host) return;
  ask({
    title: t("Limits of {name}", { name: title }),
    text: t("They act at once, also on a container that runs."),
    fields: [
      {
        key: "memory",
        label: t("Memory"),
        optional: true,
        value: host.Memory ? `${Math.round(host.Memory / 1024 ** 2)}m` : "",
        placeholder: t("no limit; such as 512m"),
        check: (value) => ((memory(value) ?? 0) >= 6 * 1024 ** 2 ? "" : t("At least 6m, such as 512m or 2g")),
      },
      { key: "cpus", label: t("Processors"), optional: true, value: host.NanoCpus ? String(host.NanoCpus / 1e9) : "", placeholder: t("no limit; such as 1.5"), check: (value) => (Number(value) > 0 ? "" : t("A number, such as 0.5 or 2")) },
      {
        key: "restart",
        label: t("Restart"),
        kind: "select",
        value: host.RestartPolicy?.Name || "no",
        options: [
          { value: "no", label: t("never") },
          { value: "on-failure", label: t("when it fails") },
          { value: "unless-stopped", label: t("unless it is stopped") },
          { value: "always", label: t("always") },
        ],
      },
    ],
    verb: t("Apply"),
    run: async (values) => {
      const bytes = values.memory ? (memory(values.memory) ?? 0) : 0;
      const was = host.Memory ?? 0;
      await docker.limits(id, {
        // Swap goes with memory, as `docker run -m` sets it; without a limit of the one there is none of the other.
        ...(bytes !== was ? { Memory: bytes, MemorySwap: bytes ? bytes * 2 : -1 } : {}),
        ...(values.cpus || host.NanoCpus ? { NanoCpus: Math.round(Number(values.cpus || 0) * 1e9) } : {}),
        // One that stays keeps how often it tries.
        ...(host.AutoRemove || values.restart === (host.RestartPolicy?.Name || "no") ? {} : { RestartPolicy: { Name: values.restart } }),
      });
      notify("done", t("Limits of {name} changed", { name: title }));
    },
  });
}
function commit(container: Container) {
  const [id, title] = [container.Id ?? "", name(container)];
  ask({
    title: t("An image of {name}", { name: title }),
    text: t("What it wrote outside of volumes becomes part of the image."),
    fields: [{ key: "image", label: t("Name and tag"), placeholder: "app:1.0", check: (value) => (reference(value) ? "" : t("A name such as app or registry.example.com/team/app:1.2")) }],
    verb: t("Make it"),
    run: async (values) => {
      const to = reference(values.image ?? "");
      if (!to) return;
      const made = await docker.commit(id, to.name, to.tag);
      notify("done", t("{image} made", { image: values.image }), "", { label: t("Show"), run: () => ui.go("images", made.Id) });
    },
  });
}
async function exported(container: Container) {
  const [id, title] = [container.Id ?? "", name(container)];
  const file = await choose("save", t("Export the files of {name}", { name: title }), `${title}.tar`);
  if (!file) return;
  const operation = operations.stream(t("Export of {name}", { name: title }), { open: "receive", path: `/containers/${id}/export`, file }, { failed: t("{name} could not be exported", { name: title }) });
  if (await operation.done) notify("done", t("{name} exported", { name: title }), file);
}

/** What has no button of its own. */
export function more(container: Container): MenuItem[] {
  const running = isRunning(container);
  return [
    ...(running && container.State !== "paused" ? [{ label: t("Pause"), run: () => engine.act(container, "pause") }] : []),
    ...(container.State === "paused" ? [{ label: t("Resume"), run: () => engine.act(container, "unpause") }] : []),
    ...(running ? [{ label: t("Kill"), run: () => engine.act(container, "kill") }] : []),
    { label: t("Run another like it…"), run: () => again(container) },
    { label: t("Rename…"), run: () => rename(container) },
    { label: t("Limits and restarts…"), run: () => limits(container) },
    { label: t("Make an image of it…"), run: () => commit(container) },
    { label: t("Export its files…"), run: () => exported(container) },
    { label: t("Copy the run command"), run: () => copied(container, line, t("Command")) },
    { label: t("Copy as a compose service"), run: () => copied(container, service, t("Compose service")) },
    { label: t("Copy the id"), run: () => copy(container.Id ?? "", t("Id")) },
  ];
}

/** Everything, as the menu of a row has it. */
export function whole(container: Container, remove: (container: Container) => unknown): MenuItem[] {
  const id = container.Id ?? "";
  const pages = isRunning(container) ? published(container.Ports).flatMap(({ url, host }) => (url ? [{ label: t("Open :{port}", { port: host }), run: () => openPage(url) }] : [])) : [];
  return [
    ...pages,
    isRunning(container) ? { label: t("Stop"), run: () => engine.act(container, "stop") } : { label: t("Start"), run: () => engine.act(container, "start") },
    { label: t("Restart"), run: () => engine.act(container, "restart") },
    { label: t("Logs"), run: () => ui.go("containers", id, "logs") },
    { label: t("Terminal"), run: () => ui.go("containers", id, "terminal") },
    ...more(container),
    { label: t("Remove…"), run: () => remove(container), danger: true },
  ];
}

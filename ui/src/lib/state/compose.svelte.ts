// Compose projects, by the compose that comes with Coracle.
import { api } from "../backend";
import type { ComposeVerb } from "../backend/words";
import type { Container } from "../docker/client";
import { base } from "../pure/paths";
import { t } from "../texts";
import { engine } from "./engine.svelte";
import { ask, choose } from "./form.svelte";
import { type Operation, operations } from "./operations.svelte";
import { notify, ui } from "./ui.svelte";

const LABEL = "com.docker.compose.";

export interface Project {
  name: string;
  /** Its folder on this computer, as its containers' labels say. */
  folder: string | undefined;
  files: string[];
  services: { name: string; containers: Container[] }[];
  containers: Container[];
}

export function project(name: string, containers: Container[]): Project {
  const first = containers.find((c) => c.Labels?.[`${LABEL}project.working_dir`]);
  const services = new Map<string, Container[]>();
  for (const container of containers) {
    const service = container.Labels?.[`${LABEL}service`] ?? "?";
    services.set(service, [...(services.get(service) ?? []), container]);
  }
  return {
    name,
    folder: first?.Labels?.[`${LABEL}project.working_dir`],
    files: (first?.Labels?.[`${LABEL}project.config_files`] ?? "").split(",").filter(Boolean),
    services: [...services].map(([name, containers]) => ({ name, containers })).sort((a, b) => a.name.localeCompare(b.name)),
    containers,
  };
}

/** A line of compose's progress as JSON; what is none is shown as it is. */
export function composeLine(line: string, operation: Operation) {
  let said: { id?: unknown; text?: unknown; status?: unknown; message?: unknown; msg?: unknown; error?: unknown; current?: number; total?: number };
  try {
    said = JSON.parse(line);
  } catch {
    operation.say([line]);
    return;
  }
  const parts = [said.id, said.text ?? said.message ?? said.msg, said.status].filter((p): p is string => typeof p === "string" && p !== "");
  if (!parts.length) return;
  operation.status = parts.join(" ");
  if (!said.total) operation.say([operation.status]);
}

const TITLES: Record<ComposeVerb["verb"], (name: string) => string> = {
  up: (name) => t("Start of the project {name}", { name }),
  down: (name) => t("Removal of the project {name}", { name }),
  start: (name) => t("Start of the project {name}", { name }),
  stop: (name) => t("Stop of the project {name}", { name }),
  restart: (name) => t("Restart of the project {name}", { name }),
  pull: (name) => t("Pull of the project {name}", { name }),
  build: (name) => t("Build of the project {name}", { name }),
  config: (name) => t("Configuration of the project {name}", { name }),
  scale: (name) => t("Scale of the project {name}", { name }),
};
/** Verbs that need the project's files; the others find all in the containers' labels. */
const FILES = new Set<ComposeVerb["verb"]>(["up", "pull", "build", "config", "scale"]);

export function compose(of: Pick<Project, "name" | "folder" | "files">, verb: ComposeVerb, services: string[] = [], quiet = false): Operation {
  const files = FILES.has(verb.verb);
  const operation = operations.stream(
    services.length ? `${TITLES[verb.verb](of.name)}: ${services.join(", ")}` : TITLES[verb.verb](of.name),
    { open: "tool", tool: { tool: "compose", project: of.name || null, folder: files ? (of.folder ?? null) : null, files: files ? of.files : [], verb, services } },
    { ...(verb.verb === "config" ? {} : { line: composeLine }), quiet, failed: t("Compose could not do it with {name}", { name: of.name || base(of.folder ?? "") }) },
  );
  return operation;
}

/** Brings up what a folder describes. */
export async function up(given?: string) {
  const folder = given ?? (await choose("folder", t("A folder with a compose file")));
  if (!folder) return;
  const looked = await api()
    .control({ control: "look", path: folder })
    .catch((error: Error) => void notify("error", t("The folder could not be read"), error.message));
  if (looked?.answer !== "folder") return;
  if (!looked.compose.length) {
    notify("error", t("There is no compose file in {folder}", { folder: looked.path }), t("It would be called compose.yaml or docker-compose.yml."));
    return;
  }
  ask({
    title: t("Start a compose project"),
    text: `${looked.path}/${looked.compose[0]}`,
    fields: [
      { key: "name", label: t("Name of the project"), optional: true, placeholder: t("the folder’s own"), check: (value) => (/^[a-z0-9][a-z0-9_-]*$/.test(value) ? "" : t("Small letters, digits, _ or -, the first a letter or digit")) },
      { key: "build", label: t("Build its images first"), kind: "check" },
    ],
    verb: t("Start"),
    run: async (values) => {
      const name = values.name ?? "";
      const operation = compose({ name, folder: looked.path, files: [] }, { verb: "up", build: values.build === "true" });
      operations.chosen = operation.id;
      operations.open = true;
      void operation.done.then(async (ok) => {
        if (!ok) return;
        await engine.containers.refresh();
        operations.open = false;
        notify("done", t("The project runs"), looked.path);
        // Whatever name compose took: its containers tell the folder.
        const made = engine.containers.items.find((c) => c.Labels?.[`${LABEL}project.working_dir`] === looked.path);
        const found = name || made?.Labels?.[`${LABEL}project`];
        if (found) ui.go("containers", `project:${found}`);
      });
    },
  });
}

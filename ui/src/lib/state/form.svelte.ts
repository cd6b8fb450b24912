// Small questions with fields: what a form asks, checks in place, and does.
import { api } from "../backend";
import { isWhole } from "../pure/paths";
import { t } from "../texts";

export interface Field {
  key: string;
  label: string;
  kind?: "text" | "secret" | "check" | "select" | "folder" | "open" | "save";
  value?: string | undefined;
  placeholder?: string;
  hint?: string;
  options?: { value: string; label: string }[];
  /** May stay empty. */
  optional?: boolean;
  /** What is wrong with it; empty when nothing is. */
  check?: (value: string, all: Record<string, string>) => string;
}

export interface Form {
  title: string;
  text?: string;
  fields: Field[];
  verb: string;
  /** Does it; what it throws is shown in the form, which stays. */
  run: (values: Record<string, string>) => Promise<unknown>;
}

class Forms {
  now = $state.raw<Form | undefined>();
}
export const forms = new Forms();

export function ask(form: Form) {
  forms.now = form;
}

export const wholePath = (value: string) => (isWhole(value) ? "" : t("A whole path, such as {path}", { path: "/home/me/file.tar" }));

/** What is wrong with a field's value. */
export function wrongOf(field: Field, values: Record<string, string>): string {
  const value = values[field.key] ?? "";
  if (!value.trim()) return field.optional || field.kind === "check" || field.kind === "select" ? "" : t("It is needed");
  if (field.kind === "folder" || field.kind === "open" || field.kind === "save") {
    const path = wholePath(value);
    if (path) return path;
  }
  return field.check?.(value, values) ?? "";
}

/** A path: by the system's dialog where there is one, else typed. */
export async function choose(kind: "folder" | "open" | "save", title: string, name?: string): Promise<string | undefined> {
  const pick = api().pick;
  if (pick) return pick(kind, name);
  return new Promise((resolve) => {
    ask({
      title,
      fields: [{ key: "path", label: kind === "folder" ? t("Folder") : t("File"), kind, placeholder: `/home/me/${name ?? ""}` }],
      verb: kind === "save" ? t("Save") : t("Choose"),
      run: async (values) => resolve(values.path),
    });
  });
}

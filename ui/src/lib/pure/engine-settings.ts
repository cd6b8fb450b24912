// The engine's own settings, in the form of dockerd's daemon.json: what the app edits of them, and the rest as text.
import { t } from "../texts";

/** Lists of registries that the app has fields for. */
export const LISTS = ["registry-mirrors", "insecure-registries"] as const;
export type ListKey = (typeof LISTS)[number];

type Settings = Record<string, unknown>;

/** What is wrong with the text; empty when nothing is. What the keys mean, the engine says. */
export function wrongText(text: string): string {
  if (!text.trim()) return "";
  try {
    const read: unknown = JSON.parse(text);
    return typeof read === "object" && read !== null && !Array.isArray(read) ? "" : t("It is one object: from {open} to {close}", { open: "{", close: "}" });
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

function parsed(text: string): Settings {
  return wrongText(text) || !text.trim() ? {} : (JSON.parse(text) as Settings);
}

/** A list, as one line for a field. */
export function listOf(text: string, key: ListKey): string {
  const value = parsed(text)[key];
  return Array.isArray(value) ? value.filter((v) => typeof v === "string").join(", ") : "";
}

export const entries = (line: string): string[] =>
  line
    .split(/[\s,]+/)
    .map((entry) => entry.trim())
    .filter(Boolean);

/** The text with another list; everything else in it stays. */
export function withList(text: string, key: ListKey, line: string): string {
  const settings = { ...parsed(text) };
  const list = entries(line);
  if (list.length) settings[key] = list;
  else delete settings[key];
  return Object.keys(settings).length ? `${JSON.stringify(settings, null, 2)}\n` : "";
}

/** What is wrong with a field's line. */
export function wrongList(key: ListKey, line: string): string {
  const mirror = /^https?:\/\/[\w.-]+(:\d{1,5})?(\/[\w./-]*)?$/;
  const host = /^([\w.-]+(:\d{1,5})?|\[[\da-f:]+\](:\d{1,5})?|[\d.]+\/\d{1,2}|[\da-f:]+\/\d{1,3})$/i;
  const bad = entries(line).find((entry) => !(key === "registry-mirrors" ? mirror : host).test(entry));
  if (!bad) return "";
  return key === "registry-mirrors" ? t("{entry} is no URL, such as https://mirror.example.com", { entry: bad }) : t("{entry} is no host, such as registry.example.com:5000, or network, such as 10.0.0.0/8", { entry: bad });
}

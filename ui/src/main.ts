import "./app.css";

import { mount } from "svelte";

import { setBackend } from "./lib/backend";
import { http } from "./lib/backend/http";
import { translation, usable } from "./lib/pure/language";
import { setTexts } from "./lib/texts";

/** Translations that are there: each a file beside `texts/en.json`. */
const TRANSLATIONS = import.meta.glob<Record<string, string>>(["./texts/*.json", "!./texts/en.json"], { import: "default" });

async function texts() {
  const language = translation(navigator.languages, Object.keys(TRANSLATIONS).map((path) => path.replace(/^.*\/|\.json$/g, "")));
  const load = TRANSLATIONS[`./texts/${language}.json`];
  if (!language || !load) return;
  setTexts(language, await load());
  document.documentElement.lang = language;
}

async function start() {
  const language = usable(navigator.language);
  if (language !== navigator.language) Object.defineProperty(navigator, "language", { value: language });
  await texts();
  if ("__TAURI_INTERNALS__" in window) setBackend((await import("./lib/backend/tauri")).tauri());
  else setBackend(http());
  // After the texts: some are looked up when a module is read.
  const { default: App } = await import("./App.svelte");
  const target = document.getElementById("app");
  if (target) mount(App, { target });
}

void start();

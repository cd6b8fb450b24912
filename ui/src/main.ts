import "./app.css";

import { mount } from "svelte";

import App from "./App.svelte";
import { setBackend } from "./lib/backend";
import { http } from "./lib/backend/http";

async function start() {
  if ("__TAURI_INTERNALS__" in window) setBackend((await import("./lib/backend/tauri")).tauri());
  else setBackend(http());
  const target = document.getElementById("app");
  if (target) mount(App, { target });
}

void start();

// Where the person is and what is open above it.
import { type Order, ORDERS } from "../pure/containers";
import type { RunForm } from "../pure/run";
import { t } from "../texts";

export const SECTIONS = ["containers", "images", "volumes", "networks", "builds", "activity", "settings"] as const;
export type Section = (typeof SECTIONS)[number];
export const TABS = ["overview", "logs", "terminal", "files", "stats", "inspect"] as const;
export type Tab = (typeof TABS)[number];
export type Theme = "system" | "light" | "dark";

export interface Note {
  id: number;
  kind: "done" | "error";
  title: string;
  text: string;
  action?: { label: string; run: () => void } | undefined;
}

export interface Question {
  title: string;
  text: string;
  verb: string;
  /** A further choice, such as volumes that go along. */
  option?: string;
  /** Whether without the choice there is nothing to do. */
  needed?: boolean;
  answer: (yes: boolean, option: boolean) => void;
}

export interface MenuItem {
  label: string;
  run: () => unknown;
  danger?: boolean;
  /** Whether it is the one chosen, of several that exclude each other. */
  chosen?: boolean;
}

const THEME = "coracle.theme";
const ORDER = "coracle.containers.order";
/** How long good news stay; longer where something can be done about them. */
const NEWS_MS = 4000;
const OFFER_MS = 10_000;
let notes = 0;

class Ui {
  section = $state<Section>("containers");
  /** What is selected, by section: an id or a name. */
  selected = $state<Record<string, string | undefined>>({});
  tab = $state<Tab>("overview");
  filter = $state("");
  palette = $state(false);
  /** A container that a person has just run, and until when its end is news to them. */
  fresh = $state.raw<{ id: string; until: number } | undefined>();
  run = $state<{ image: string; form?: RunForm } | undefined>();
  pull = $state<{ image: string; then?: "run" } | undefined>();
  /** The menu of a row, and where it was asked for. */
  context = $state.raw<{ x: number; y: number; label: string; items: MenuItem[] } | undefined>();
  question = $state.raw<Question | undefined>();
  notes = $state<Note[]>([]);
  theme = $state<Theme>("system");
  /** What containers are sorted by. */
  order = $state<Order>("name");

  constructor() {
    const kept = globalThis.localStorage?.getItem(THEME);
    if (kept === "light" || kept === "dark") this.theme = kept;
    this.order = ORDERS.find((o) => o === globalThis.localStorage?.getItem(ORDER)) ?? "name";
  }

  setTheme(theme: Theme) {
    this.theme = theme;
    localStorage.setItem(THEME, theme);
  }

  setOrder(order: Order) {
    this.order = order;
    localStorage.setItem(ORDER, order);
  }

  go(section: Section, selected?: string, tab?: Tab) {
    if (section !== this.section) this.filter = "";
    this.section = section;
    if (selected !== undefined) this.selected[section] = selected;
    if (tab) this.tab = tab;
  }
}

export const ui = new Ui();

export function notify(kind: Note["kind"], title: string, text = "", action?: Note["action"]) {
  const id = ++notes;
  ui.notes = [...ui.notes.slice(-3), { id, kind, title, text, action }];
  // Errors stay until they are read.
  if (kind === "done") setTimeout(() => dismiss(id), action ? OFFER_MS : NEWS_MS);
}

export function dismiss(id: number) {
  ui.notes = ui.notes.filter((n) => n.id !== id);
}

/** Asks before something is lost. */
export function confirm(question: Omit<Question, "answer">): Promise<{ option: boolean } | undefined> {
  return new Promise((resolve) => {
    ui.question = {
      ...question,
      answer: (yes, option) => {
        ui.question = undefined;
        resolve(yes ? { option } : undefined);
      },
    };
  });
}

export async function copy(text: string, what: string) {
  try {
    await navigator.clipboard.writeText(text);
    notify("done", `${what} copied`);
  } catch {
    notify("error", t("{what} could not be copied", { what }), t("The system did not give access to the clipboard."));
  }
}

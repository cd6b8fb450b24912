// @ts-nocheck: Node's modules have no types here.
// Every text goes through t(): this finds what doesn't, and holds `texts/en.json` to what is used.
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join, relative } from "node:path";

import { parse } from "svelte/compiler";
import { describe, expect, it } from "vitest";

import { setTexts, t, tn } from "./texts";

const ROOT = join(import.meta.dirname, "..");
const CATALOGUE = join(ROOT, "texts/en.json");
/** Names of things, and what only looks like text. */
const NAMES = /^(CPU|Dockerfile|Docker Hub|Pulling from|Download complete|Ctrl.*|[FN]|Space, Shift.*|[SR], .*)$/;
/** Attributes, of elements and of components, that a person reads. */
const READ = new Set(["title", "aria-label", "placeholder", "alt", "label", "text", "verb"]);

interface Node {
  type: string;
  start: number;
  [key: string]: unknown;
}

function files(folder: string): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return files(path);
    return /\.(svelte|ts)$/.test(entry.name) && !/(\.gen|\.test)\.ts$|words\.ts$/.test(entry.name) ? [path] : [];
  });
}

const isNode = (value: unknown): value is Node => typeof value === "object" && value !== null && typeof (value as Node).type === "string";
const letters = (text: string) => /[A-Za-z]{2,}/.test(text.replaceAll(/&\w+;|\{\w+\}/g, "")) && !NAMES.test(text.trim());
/** A sentence, or a part of one; commands and selectors have marks that sentences don't. */
const prose = (text: string) => /^[A-Z][a-z’]+[,.]? [a-z]/.test(text) && !/[<>[\]=#]/.test(text);

interface Found {
  used: Set<string>;
  literal: string[];
}

function scan(path: string, found: Found) {
  const source = readFileSync(path, "utf8");
  const script = path.endsWith(".ts");
  const ast = parse(script ? `<script lang="ts">\n${source}\n</script>` : source, { modern: true });
  const where = relative(ROOT, path);
  const say = (text: string) => found.literal.push(`${where}: ${text.trim()}`);
  const text = (node: Node) => (typeof node.data === "string" ? node.data : "");
  function visit(value: unknown, element = "") {
    if (Array.isArray(value)) {
      for (const one of value) visit(one, element);
      return;
    }
    if (typeof value !== "object" || value === null) return;
    if (isNode(value)) {
      if (/^(TS(?!As|NonNull|Satisfies)|Import|Comment|Style)/.test(value.type)) return;
      const callee = value.callee as Node | undefined;
      if (value.type === "CallExpression" && (callee?.name === "t" || callee?.name === "tn")) {
        const keys = (value.arguments as Node[]).slice(0, callee.name === "tn" ? 2 : 1);
        for (const key of keys) if (typeof key.value === "string") found.used.add(key.value);
        visit((value.arguments as Node[]).slice(keys.length));
        return;
      }
      if (value.type === "Text" && !["code", "kbd", "pre", "option"].includes(element) && letters(text(value))) say(text(value));
      if (value.type === "Attribute") {
        const parts = (Array.isArray(value.value) ? value.value : [value.value]) as Node[];
        const read = READ.has(String(value.name));
        for (const part of parts) {
          if (!isNode(part)) continue;
          if (part.type === "Text") {
            // Examples of what may be typed are the same in every language.
            const example = value.name === "placeholder" && !/ [a-z]+ /.test(text(part));
            if (read && !example && letters(text(part))) say(text(part));
          } else visit(part);
        }
        return;
      }
      if (value.type === "Literal" && typeof value.value === "string" && prose(value.value) && !NAMES.test(value.value)) say(value.value);
      if (value.type === "TemplateElement" && prose(((value.value as { cooked?: string }).cooked ?? "").trim())) say(String((value.value as { cooked?: string }).cooked));
      const inner = value.type === "RegularElement" ? String(value.name) : element;
      for (const [key, child] of Object.entries(value)) if (!["css", "options", "loc", "parent", "metadata"].includes(key)) visit(child, inner);
      return;
    }
    for (const child of Object.values(value)) visit(child, element);
  }
  visit(ast.instance?.content);
  visit(ast.module?.content);
  if (!script) visit(ast.fragment);
}

describe("texts", () => {
  const found: Found = { used: new Set(), literal: [] };
  for (const path of files(ROOT)) scan(path, found);

  it("none stands outside of t()", () => {
    expect(found.literal).toEqual([]);
  });
  it("the catalogue has what is used, and nothing else: CORACLE_WRITE_TEXTS=1 writes it", () => {
    const wanted = Object.fromEntries([...found.used].sort().map((text) => [text, text]));
    if (process.env.CORACLE_WRITE_TEXTS) writeFileSync(CATALOGUE, `${JSON.stringify(wanted, null, 2)}\n`);
    expect(JSON.parse(readFileSync(CATALOGUE, "utf8"))).toEqual(wanted);
  });
  it("every translation keeps the places for values", () => {
    const places = (text: string) => [...text.matchAll(/\{\w+\}/g)].map(String).sort();
    for (const name of readdirSync(join(ROOT, "texts"))) {
      const texts = JSON.parse(readFileSync(join(ROOT, "texts", name), "utf8")) as Record<string, string>;
      for (const [key, text] of Object.entries(texts)) for (const form of text.split("|")) expect(places(form), key).toEqual(places(key));
    }
  });
  it("a translation is used, with its forms of numbers; what is missing stays English", () => {
    setTexts("cs", { "{n} images": "{n} obraz|{n} obrazy|{n} obrazu|{n} obrazů", Start: "Spustit" });
    expect([t("Start"), t("Stop"), tn("{n} image", "{n} images", 1), tn("{n} image", "{n} images", 3), tn("{n} image", "{n} images", 9)]).toEqual([
      "Spustit",
      "Stop",
      "1 obraz",
      "3 obrazy",
      "9 obrazů",
    ]);
    setTexts("en", {});
    expect([tn("{n} image", "{n} images", 1), t("{a} of {b}", { a: "{b}", b: 2 })]).toEqual(["1 image", "{b} of 2"]);
  });
});

import type { Entry } from "../backend/words";
import { t } from "../texts";

// Folders of containers: what `ls -lAn` says, and the tar archives of Docker's copy.

const LINE = /^([bcdlps-])([rwxsStT-]{9})[.+@]?\s+\d+\s+\d+\s+\d+\s+(\d+)(?:,\s*(\d+))?\s+\S+\s+\S+\s+\S+ (.+)$/;

/** Lines of `ls -lAn`, of busybox or coreutils. Folders first, by name. */
export function listing(text: string): Entry[] {
  const out: Entry[] = [];
  for (const line of text.split("\n")) {
    const found = LINE.exec(line.replace(/\r$/, ""));
    if (!found) continue;
    const [, type = "-", mode = "", size = "0", , rest = ""] = found;
    const arrow = type === "l" ? rest.indexOf(" -> ") : -1;
    out.push({
      name: arrow >= 0 ? rest.slice(0, arrow) : rest,
      kind: type === "d" ? "folder" : type === "l" ? "link" : type === "-" ? "file" : "other",
      size: Number(size),
      mode: type + mode,
      target: arrow >= 0 ? rest.slice(arrow + 4) : null,
    });
  }
  return out.sort((a, b) => Number(b.kind === "folder") - Number(a.kind === "folder") || a.name.localeCompare(b.name));
}

/** A path and a name below it; `..` goes up. */
export function join(path: string, name: string): string {
  const parts = path.split("/").filter(Boolean);
  if (name === "..") parts.pop();
  else parts.push(...name.split("/").filter(Boolean));
  return `/${parts.join("/")}`;
}

/** The engine's answer to an exec without a terminal: frames of two streams. */
export function frames(bytes: Uint8Array): { out: string; err: string } {
  const parts: [Uint8Array[], Uint8Array[]] = [[], []];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at + 8 <= bytes.length; ) {
    const size = view.getUint32(at + 4);
    parts[bytes[at] === 2 ? 1 : 0].push(bytes.subarray(at + 8, Math.min(bytes.length, at + 8 + size)));
    at += 8 + size;
  }
  const text = (list: Uint8Array[]) => {
    const all = new Uint8Array(list.reduce((sum, p) => sum + p.length, 0));
    let at = 0;
    for (const part of list) {
      all.set(part, at);
      at += part.length;
    }
    return new TextDecoder().decode(all);
  };
  return { out: text(parts[0]), err: text(parts[1]) };
}

/** Where the first file of a tar archive stands: its head, and its bytes; undefined when there is none (a folder, a link). */
function first(tar: Uint8Array): { head: number; from: number; size: number } | undefined {
  for (let at = 0; at + 512 <= tar.length; ) {
    const head = tar.subarray(at, at + 512);
    const size = Number.parseInt(new TextDecoder().decode(head.subarray(124, 136)).replace(/\0.*$/, "").trim() || "0", 8);
    if (!Number.isFinite(size) || head[0] === 0) return undefined;
    const type = String.fromCharCode(head[156] ?? 0);
    if (type === "0" || type === "\0") return { head: at, from: at + 512, size };
    if (type !== "x" && type !== "g" && type !== "L" && type !== "K") return undefined;
    at += 512 + Math.ceil(size / 512) * 512;
  }
  return undefined;
}

/** The first file of a tar archive. */
export function untar(tar: Uint8Array): Uint8Array | undefined {
  const found = first(tar);
  return found && tar.subarray(found.from, found.from + found.size);
}

const octal = (value: number, digits: number) => `${value.toString(8).padStart(digits, "0")}\0`;

/** Writes a head's sum over it. */
function summed(head: Uint8Array) {
  head.set(new TextEncoder().encode("        "), 148);
  const sum = head.reduce((all, b) => all + b, 0);
  head.set(new TextEncoder().encode(`${octal(sum, 6)} `), 148);
}

function padded(bytes: Uint8Array): Uint8Array {
  const out = new Uint8Array(Math.ceil(bytes.length / 512) * 512);
  out.set(bytes);
  return out;
}

function joined(parts: Uint8Array[]): Uint8Array {
  const all = new Uint8Array(parts.reduce((sum, p) => sum + p.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

/** Records of a PAX head that tell of the file as it was, not as it becomes. */
const PAST = /^(size|mtime|atime|ctime)=/;

/**
 * The archive of a file with other contents: name, owner, mode and extended attributes stay, the time is now.
 * Undefined when there is no file in it.
 */
export function replaced(tar: Uint8Array, contents: Uint8Array, now = Date.now()): Uint8Array | undefined {
  const found = first(tar);
  if (!found) return undefined;
  const encoder = new TextEncoder();
  const parts: Uint8Array[] = [];
  for (let at = 0; at < found.head; ) {
    const head = tar.slice(at, at + 512);
    const size = Number.parseInt(new TextDecoder().decode(head.subarray(124, 136)), 8) || 0;
    let body: Uint8Array = tar.slice(at + 512, at + 512 + size);
    if (head[156] === "x".charCodeAt(0)) body = joined(records(body).filter((record) => !PAST.test(new TextDecoder().decode(record).replace(/^\d+ /, ""))));
    head.set(encoder.encode(octal(body.length, 11)), 124);
    summed(head);
    if (body.length) parts.push(head, padded(body));
    at += 512 + Math.ceil(size / 512) * 512;
  }
  const head = tar.slice(found.head, found.head + 512);
  head.set(encoder.encode(octal(contents.length, 11)), 124);
  head.set(encoder.encode(octal(Math.floor(now / 1000), 11)), 136);
  summed(head);
  return joined([...parts, head, padded(contents), new Uint8Array(1024)]);
}

/** The records of a PAX head, each with its length before it. */
function records(bytes: Uint8Array): Uint8Array[] {
  const out: Uint8Array[] = [];
  for (let at = 0; at < bytes.length; ) {
    const length = Number.parseInt(new TextDecoder().decode(bytes.subarray(at, at + 12)), 10);
    if (!(length > 0)) break;
    out.push(bytes.subarray(at, at + length));
    at += length;
  }
  return out;
}

/** A tar archive with one file. Names of more than 100 bytes get a PAX record. */
export function tar(name: string, contents: Uint8Array): Uint8Array {
  const encoder = new TextEncoder();
  const header = (title: Uint8Array, type: string, size: number) => {
    const head = new Uint8Array(512);
    head.set(title.subarray(0, 100), 0);
    const put = (text: string, at: number) => head.set(encoder.encode(text), at);
    put(octal(0o644, 7), 100);
    put(octal(0, 7), 108);
    put(octal(0, 7), 116);
    put(octal(size, 11), 124);
    put(octal(Math.floor(Date.now() / 1000), 11), 136);
    put(type, 156);
    put("ustar\x0000", 257);
    summed(head);
    return head;
  };
  const title = encoder.encode(name);
  const parts: Uint8Array[] = [];
  if (title.length > 100) {
    // The record's length counts its own digits.
    const rest = ` path=${name}\n`;
    const bare = encoder.encode(rest).length;
    let length = bare + 1;
    while (bare + String(length).length !== length) length = bare + String(length).length;
    const record = encoder.encode(`${length}${rest}`);
    parts.push(header(encoder.encode("pax"), "x", record.length), padded(record));
  }
  parts.push(header(title, "0", contents.length), padded(contents), new Uint8Array(1024));
  return joined(parts);
}

/** A text as an editor has it, and how its lines end; or why it can't be edited without changing more than a person does. */
export type Editable = { text: string; crlf: boolean } | { why: string };

export function editable(bytes: Uint8Array): Editable {
  let text: string;
  try {
    text = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return { why: t("It is not in UTF-8: it can be looked at, not edited.") };
  }
  const returns = text.split("\r").length - 1;
  const pairs = text.split("\r\n").length - 1;
  const lines = text.split("\n").length - 1;
  if (returns === 0) return { text, crlf: false };
  if (returns === pairs && pairs === lines) return { text: text.replaceAll("\r\n", "\n"), crlf: true };
  return { why: t("Its lines end in different ways: an editor here would change them all.") };
}

/** The file's bytes of an edited text. */
export function edited(text: string, crlf: boolean): Uint8Array {
  return new TextEncoder().encode(crlf ? text.replaceAll("\n", "\r\n") : text);
}

const IMAGES: Record<string, string> = { png: "image/png", jpg: "image/jpeg", jpeg: "image/jpeg", gif: "image/gif", webp: "image/webp" };

export type Preview = { kind: "text"; text: string } | { kind: "image"; type: string } | { kind: "none"; why: string };

/** How a file can be shown. SVG is shown as the text it is: as an image it is a document of somebody else's. */
export function preview(name: string, bytes: Uint8Array): Preview {
  const type = IMAGES[name.split(".").pop()?.toLowerCase() ?? ""];
  if (type) return { kind: "image", type };
  if (bytes.subarray(0, 8192).includes(0)) return { kind: "none", why: t("It is not text.") };
  return { kind: "text", text: new TextDecoder().decode(bytes) };
}

import { t, tn } from "../texts";
/** A size in words, as Docker writes them: powers of 1000. */
export function size(bytes: number | undefined | null): string {
  if (bytes === undefined || bytes === null || bytes < 0 || !Number.isFinite(bytes)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let value = bytes;
  let unit = 0;
  while (value >= 999.5 && unit < units.length - 1) {
    value /= 1000;
    unit += 1;
  }
  return `${unit === 0 || value >= 99.95 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

/** How long, in the largest unit that says it. */
export function span(seconds: number): string {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return tn("{n} second", "{n} seconds", s);
  if (s < 3600) return tn("{n} minute", "{n} minutes", Math.floor(s / 60));
  if (s < 86_400) return tn("{n} hour", "{n} hours", Math.floor(s / 3600));
  if (s < 86_400 * 60) return tn("{n} day", "{n} days", Math.floor(s / 86_400));
  if (s < 86_400 * 730) return tn("{n} month", "{n} months", Math.floor(s / (86_400 * 30)));
  return tn("{n} year", "{n} years", Math.floor(s / (86_400 * 365)));
}

/** How long ago; a time that is not set (`0001-01-01`) is never. */
export function ago(time: string | number | undefined | null, now = Date.now()): string {
  const at = typeof time === "number" ? time * 1000 : Date.parse(time ?? "");
  if (!Number.isFinite(at) || at <= 0) return t("never");
  const seconds = (now - at) / 1000;
  return seconds < 5 ? t("just now") : t("{span} ago", { span: span(seconds) });
}

/** A time of day and date, short, in the person's own time. */
export function moment(time: string | undefined | null): string {
  const at = Date.parse(time ?? "");
  return Number.isFinite(at) && at > 0 ? new Date(at).toLocaleString() : "–";
}

export function shortId(id: string | undefined): string {
  return (id ?? "").replace(/^sha256:/, "").slice(0, 12);
}

/** A word of a command line for a POSIX shell. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", String.raw`'\''`)}'`;
}

/** Words of a line as a shell takes them apart, or why it can't. */
export function words(line: string): { words: string[] } | { error: string } {
  const out: string[] = [];
  let word: string | undefined;
  let quoted: '"' | "'" | undefined;
  for (let i = 0; i < line.length; i++) {
    const c = line[i] ?? "";
    if (quoted) {
      if (c === quoted) quoted = undefined;
      else if (c === "\\" && quoted === '"' && /["\\$`]/.test(line[i + 1] ?? "")) word += line[++i] ?? "";
      else word += c;
    } else if (c === '"' || c === "'") {
      quoted = c;
      word ??= "";
    } else if (c === "\\") {
      if (i + 1 === line.length) return { error: t("the line ends in a backslash") };
      word = (word ?? "") + (line[++i] ?? "");
    } else if (/\s/.test(c)) {
      if (word !== undefined) out.push(word);
      word = undefined;
    } else word = (word ?? "") + c;
  }
  if (quoted) return { error: t("a quotation mark ({quoted}) is not closed", { quoted }) };
  if (word !== undefined) out.push(word);
  return { words: out };
}

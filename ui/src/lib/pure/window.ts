// Which rows of a long list are in the page: those that can be seen, and a few more.

/** Lists of fewer rows are whole in the page. */
export const WHOLE = 150;
const SPARE = 6;

export interface Part {
  first: number;
  end: number;
  /** Pixels above the first and below the last. */
  above: number;
  below: number;
}

/** Where each row begins, and where the last one ends. */
export function offsets(count: number, height: (index: number) => number): number[] {
  const out = [0];
  for (let i = 0; i < count; i++) out.push((out[i] ?? 0) + height(i));
  return out;
}

/** The row at a height. */
export function rowAt(at: number[], y: number): number {
  let low = 0;
  let high = at.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if ((at[middle] ?? 0) <= y) low = middle;
    else high = middle - 1;
  }
  return Math.min(low, Math.max(0, at.length - 2));
}

/** The part of a list that belongs into the page. */
export function part(at: number[], top: number, height: number): Part {
  const count = at.length - 1;
  if (count <= WHOLE) return { first: 0, end: count, above: 0, below: 0 };
  const first = Math.max(0, rowAt(at, top) - SPARE);
  const end = Math.min(count, rowAt(at, top + height) + 1 + SPARE);
  return { first, end, above: at[first] ?? 0, below: (at[count] ?? 0) - (at[end] ?? 0) };
}

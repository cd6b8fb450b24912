/** Arrow keys, Home and End in a menu. */
export function walkMenu(event: KeyboardEvent & { currentTarget: HTMLElement }) {
  const all = [...event.currentTarget.querySelectorAll("button")];
  const at = all.indexOf(document.activeElement as HTMLButtonElement);
  const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: all.length - 1 }[event.key];
  if (to === undefined) return;
  event.preventDefault();
  all[(to + all.length) % all.length]?.focus();
}

/**
 * Whether the web view's own menu may come up: where text is typed or marked, for copy and paste. Elsewhere it would
 * offer to reload or leave a page that a person doesn't know of.
 */
export function ownMenu(at: Element, marked: Selection | null): boolean {
  if (at.closest("input, textarea, [contenteditable], .xterm")) return true;
  return !!marked && !marked.isCollapsed && marked.containsNode(at, true);
}

/**
 * A language that numbers and times can be written in. WebKit says "C" where nobody chose one, which no library that asks
 * for it (uPlot does, when it is loaded) bears.
 */
export function usable(language: string | undefined): string {
  try {
    return Intl.getCanonicalLocales(language)[0] ?? "en-US";
  } catch {
    return "en-US";
  }
}

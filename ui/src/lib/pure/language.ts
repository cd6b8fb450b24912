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

/** The first of a person's languages that there are texts in; none where that is English, whose texts are the keys. */
export function translation(wanted: readonly string[], there: string[]): string | undefined {
  const own = wanted.map((language) => language.split("-")[0] ?? "");
  const first = own.find((language) => language === "en" || there.includes(language));
  return first === "en" ? undefined : first;
}

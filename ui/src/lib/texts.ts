// Every text that a person reads goes through here: the English one is the key, `texts/en.json` lists them all (a test
// holds it), and a translation is a file of the same form.
type Values = Record<string, string | number | undefined>;
type Catalogue = Record<string, string>;

let catalogue: Catalogue = {};
let language = "en";

/** Texts of another language; what is missing there stays English. */
export function setTexts(of: string, texts: Catalogue) {
  language = of;
  catalogue = texts;
}

function fill(text: string, values: Values): string {
  return text.replaceAll(/\{(\w+)\}/g, (whole, name: string) => (name in values ? String(values[name] ?? "") : whole));
}

/** A text; `{name}` stands for a value. */
export function t(text: string, values: Values = {}): string {
  return fill(catalogue[text] ?? text, values);
}

/** Unicode's order of the forms of numbers. */
const FORMS: Intl.LDMLPluralRule[] = ["zero", "one", "two", "few", "many", "other"];

/** A text that counts: `{n}` stands for the number. A language with more forms has those it has apart by `|`, in that order. */
export function tn(one: string, many: string, n: number, values: Values = {}): string {
  const rules = new Intl.PluralRules(language);
  const forms = catalogue[many]?.split("|");
  const has = rules.resolvedOptions().pluralCategories;
  const order = FORMS.filter((form) => has.includes(form));
  const text = forms && forms.length > 1 ? forms[order.indexOf(rules.select(n))] : n === 1 ? (catalogue[one] ?? one) : (catalogue[many] ?? many);
  return fill(text ?? many, { n: n.toLocaleString(), ...values });
}

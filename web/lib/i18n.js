// One message table a language; a test holds that both have the same keys and that the code asks for none that is missing.
// Only the one in use is loaded.

export const LANGUAGES = [["en", "English"], ["ko", "한국어"]];

let language = "en";
let table = {};
let rules = {};
let plurals = new Intl.PluralRules("en");

/** The language in use: `en` or `ko`. */
export function currentLanguage() {
  return language;
}

/** Uses the remembered language, else the browser's. */
export async function startLanguage() {
  let wanted = null;
  try {
    wanted = localStorage.getItem("munjigi.language");
  } catch {
    // Storage is blocked.
  }
  await use(wanted ?? navigator.language.slice(0, 2));
}

/** Changes the language and remembers it. */
export async function chooseLanguage(wanted) {
  await use(wanted);
  try {
    localStorage.setItem("munjigi.language", language);
  } catch {
    // Storage is blocked: it holds for this page.
  }
}

/** Uses a language without remembering it. */
export async function use(wanted) {
  const known = LANGUAGES.some(([code]) => code === wanted) ? wanted : "en";
  ({ default: table } = await import(`../i18n/${known}.js`));
  // The analyser explains its rules in English; where there is a translation it is loaded beside the messages.
  rules = known === "en" ? {} : (await import(`../i18n/rules-${known}.js`)).default;
  language = known;
  plurals = new Intl.PluralRules(language);
  if (typeof document !== "undefined") document.documentElement.lang = language;
}

/**
 * The card of the analyser's rule `id` in the language in use: `{ name, short, why, fix, limits }`. `short` is what the
 * finding says of its rule; another model may have a rule of the same id, and a newer analyser other words.
 */
export function ruleIn(id, short) {
  const card = Object.hasOwn(rules, id) ? rules[id] : undefined;
  return card && (short === undefined || card.of === short) ? card : undefined;
}

/** True when there is such a message. */
export function has(key) {
  return table[key] !== undefined;
}

/**
 * The message `key` with `{name}` replaced by `values.name`. With `values.n` the plural form `key_one` or `key_other` is
 * taken where the table has one; `n` is shown with the language's digit groups.
 */
export function t(key, values = {}) {
  let message = table[key];
  if (message === undefined && typeof values.n === "number") {
    message = table[`${key}_${plurals.select(values.n)}`] ?? table[`${key}_other`];
  }
  if (message === undefined) return key;
  return message.replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name];
    if (value === undefined) return whole;
    return typeof value === "number" ? value.toLocaleString(language) : String(value);
  });
}

// Reading a finding (a SARIF result with what the hub adds). Pure; everything in it came from outside and may be missing.
import { path, words } from "./format.js";
import { ruleIn } from "./i18n.js";
import { levelOf } from "./store.js";

// An event names only the rule's id; its name comes with the result.
const ACRONYMS = /\b(sql|ldap|xss|xxe|csrf|ssrf|html|http|url|jwt|tls|ssl|aes|des|md5|sha1|ecb|api)\b/g;
const ORDER = { error: 0, warning: 1, note: 2 };

/** Where it is: `{ uri, region, context }` of a SARIF location. */
export function placeIn(location) {
  const physical = location?.physicalLocation;
  return { uri: physical?.artifactLocation?.uri ?? "", region: physical?.region ?? {}, context: physical?.contextRegion };
}

/** The file it is in, as people read it. */
export function fileOf(finding) {
  return path(placeIn(finding.locations?.[0]).uri);
}

/** `src/Login.java:42`. */
export function placeOf(finding) {
  const { startLine } = placeIn(finding.locations?.[0]).region;
  return `${fileOf(finding)}${startLine ? `:${startLine}` : ""}`;
}

/** What tells it from the others of its job, also in a later scan. */
export function idOf(finding) {
  return finding.partialFingerprints?.["munjigi/v1"] ?? `${finding.ruleId}@${placeOf(finding)}`;
}

/** Its rule's card in the reader's language; undefined when there is only the English one. */
export function translated(finding) {
  // Until the result is there a finding has no card, and no name but its rule's id.
  if (finding.ruleName && !finding.ruleHelp?.short) return undefined;
  return ruleIn(finding.ruleId, finding.ruleHelp?.short);
}

/** Its rule in words. */
export function ruleName(finding) {
  const own = translated(finding)?.name ?? finding.ruleName;
  if (own) return own;
  const name = words(finding.ruleId ?? "").replace(ACRONYMS, (word) => word.toUpperCase()) || "–";
  return name[0].toUpperCase() + name.slice(1);
}

/** Its CWE numbers, the weakness itself first. */
export function cwesOf(finding) {
  if (Array.isArray(finding.ruleHelp?.cwe)) return finding.ruleHelp.cwe.map(Number).filter(Boolean);
  const named = [
    ...(finding.properties?.tags ?? []),
    ...(finding.taxa ?? []).map((taxon) => `cwe-${String(taxon.id).replace(/^cwe-/i, "")}`),
  ];
  const numbers = named.map((tag) => /cwe-0*(\d+)$/i.exec(String(tag))?.[1]).filter(Boolean);
  return [...new Set(numbers.map(Number))];
}

/** The parts of its score; undefined when it has none. */
export function scoreOf(finding) {
  return finding.properties?.munjigi;
}

/** Its steps: `{ number, kinds, uri, region, context, message }`; one unnumbered place where it has no flow. */
export function stepsOf(finding) {
  const locations = finding.codeFlows?.[0]?.threadFlows?.[0]?.locations ?? [];
  if (locations.length === 0) {
    return (finding.locations ?? []).slice(0, 1).map((location) => ({ number: 0, kinds: [], ...placeIn(location), message: finding.message?.text ?? "" }));
  }
  return locations.map((step, index) => ({
    number: index + 1,
    kinds: step.kinds ?? [],
    ...placeIn(step.location),
    message: step.location?.message?.text ?? "",
    inside: step.location?.logicalLocations?.[0]?.name ?? step.location?.logicalLocations?.[0]?.fullyQualifiedName ?? "",
  }));
}

/** Errors first, then what is more likely true, then by place. */
export function compare(a, b) {
  return (
    ORDER[levelOf(a)] - ORDER[levelOf(b)] ||
    (scoreOf(b)?.probability ?? 0) - (scoreOf(a)?.probability ?? 0) ||
    fileOf(a).localeCompare(fileOf(b)) ||
    (placeIn(a.locations?.[0]).region.startLine ?? 0) - (placeIn(b.locations?.[0]).region.startLine ?? 0)
  );
}

/** The findings that pass `{ text, levels (a Set; empty: all), cwe, path }`. */
export function filter(findings, { text = "", levels = new Set(), cwe = "", path: within = "" }) {
  const wanted = text.trim().toLowerCase();
  return findings.filter((finding) => {
    if (levels.size > 0 && !levels.has(levelOf(finding))) return false;
    if (cwe && !cwesOf(finding).includes(Number(cwe))) return false;
    if (within && !fileOf(finding).toLowerCase().includes(within.toLowerCase())) return false;
    if (!wanted) return true;
    return [ruleName(finding), finding.ruleId, finding.message?.text, placeOf(finding)].some((part) => part?.toLowerCase().includes(wanted));
  });
}

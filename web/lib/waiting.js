// Why a job waits, as the hub says it (crates/hub/src/jobs/placement.rs), in the reader's language. Pure.
import { t } from "./i18n.js";

const WAITS = [
  [/^no worker offers the model `(?<model>[^`]+)`; offered: (?<offered>.+)$/s, "wait.offered"],
  [/^no worker offers the model `(?<model>[^`]+)`; none is there$/, "wait.none"],
  [/^each worker that offers the model `(?<model>[^`]+)` is drained$/, "wait.drained"],
  [/^all workers are busy$/, "wait.busy"],
];

/** The reason in words; undefined for any other message. */
export function waitingFor(message) {
  for (const [form, key] of WAITS) {
    const found = form.exec(message ?? "");
    if (found) return t(key, { ...found.groups });
  }
  return undefined;
}

// What the events of one job add up to, folded as the hub folds them (crates/events/src/fold.rs). Pure: no socket, no
// page, no clock.

/** The phases in their order; `DONE`, `FAILED` and `CANCELLED` end an analysis. */
export const PHASES = ["QUEUED", "PLACED", "RECEIVING", "RUNNING", "COLLECTING"];
const TERMINAL = new Set(["DONE", "FAILED", "CANCELLED"]);

/** Events kept for the stream; the counts and states go on without the older ones. */
const EVENTS_MAX = 2000;
/** Findings kept from events; the full list comes from the hub once the job has ended. */
const FINDINGS_MAX = 5000;

/** True when nothing comes after this status. */
export function isTerminal(status) {
  return TERMINAL.has(status);
}

/** An empty job. */
export function newJob(eventId) {
  return { eventId, status: "QUEUED", analyses: new Map(), events: [], dropped: 0, findings: [], generation: 0, incomplete: false };
}

/** A job's status from those of its analyses. */
export function jobStatus(statuses) {
  const any = (wanted) => statuses.includes(wanted);
  if (statuses.every(isTerminal)) {
    return ["CANCELLED", "FAILED", "DONE"].find(any) ?? "QUEUED";
  }
  if (any("CANCELLING") || any("CANCELLED")) return "CANCELLING";
  return PHASES.find(any) ?? "QUEUED";
}

/**
 * Takes one event into account. Answers `next`; `old` when it was seen before or belongs to an older attempt; `gap` when
 * events before it are missing, and then it isn't taken.
 */
export function fold(job, event) {
  const seen = job.analyses.get(event.analyzeId);
  if (seen?.seq) {
    if (event.attempt < seen.attempt || (event.attempt === seen.attempt && event.seq <= seen.seq)) return "old";
    const follows = event.attempt === seen.attempt ? event.seq === seen.seq + 1 : event.seq === 1;
    if (!follows && !job.incomplete) return "gap";
  } else if (event.seq !== 1 && !job.incomplete) {
    return "gap";
  }
  const analysis = seen?.seq && event.attempt === seen.attempt ? seen : renew(job, event, seen);
  // A worker whose model failed says so with its COLLECTING: it broke in the phase before.
  if (event.error && event.status === "COLLECTING") analysis.brokeIn = analysis.status;
  analysis.status = event.status;
  analysis.seq = event.seq;
  analysis.serverId = event.serverId;
  if (event.progress) analysis.progress = event.progress;
  if (event.error) analysis.error = event.error;
  if (event.message) analysis.message = event.message;
  analysis.reached[event.status] ??= event.createdAt;
  analysis.last = event.createdAt;
  if (event.finding) {
    analysis.findings += 1;
    if (job.findings.length < FINDINGS_MAX) job.findings.push({ ...event.finding, analyzeId: event.analyzeId, at: event.createdAt });
  }
  keep(job, event);
  job.status = jobStatus([...job.analyses.values()].map((each) => each.status));
  return "next";
}

// A new attempt starts from nothing, its findings included: the worker will report them again. Where the hub only takes over
// to end it (cancel, failure), the reader still sees how far the one before had come.
function renew(job, event, seen) {
  const ends = event.status === "CANCELLING" || isTerminal(event.status);
  const analysis = {
    analyzeId: event.analyzeId,
    model: seen?.model,
    attempt: event.attempt,
    findings: 0,
    progress: undefined,
    error: undefined,
    message: undefined,
    reached: (ends && seen?.reached) || {},
    tries: (seen?.tries ?? 0) + (ends && seen?.tries ? 0 : 1),
  };
  if (seen?.findings) {
    job.findings = job.findings.filter((finding) => finding.analyzeId !== event.analyzeId);
    job.generation += 1;
  }
  job.analyses.set(event.analyzeId, analysis);
  return analysis;
}

// The stream shows that there was a finding, not its whole text.
function keep(job, event) {
  const { finding, ...rest } = event;
  job.events.push(finding ? { ...rest, rule: finding.ruleId, level: finding.level ?? "warning", text: finding.message?.text } : rest);
  if (job.events.length > EVENTS_MAX) {
    // A tenth at once, not one by one.
    const gone = EVENTS_MAX / 10;
    job.events.splice(0, gone);
    job.dropped += gone;
  }
}

/** Takes the job's row: names and models always, states only where no event has said more. */
export function takeRow(job, row) {
  job.name = row.name ?? job.name;
  job.size = row.size ?? job.size;
  job.createdAt = row.createdAt ?? job.createdAt;
  job.endedAt = row.endedAt ?? job.endedAt;
  for (const each of row.analyses ?? []) {
    const seen = job.analyses.get(each.analyzeId);
    if (seen?.seq) {
      seen.model = each.model;
      // The row is the truth once the event log no longer is.
      if (job.incomplete) overwrite(seen, each);
      continue;
    }
    const analysis = { analyzeId: each.analyzeId, model: each.model, reached: {}, seq: 0, attempt: 1, findings: 0 };
    overwrite(analysis, each);
    job.analyses.set(each.analyzeId, analysis);
  }
  if (job.events.length === 0 || job.incomplete) job.status = row.status ?? job.status;
}

function overwrite(analysis, row) {
  analysis.status = row.status;
  analysis.serverId = row.serverId ?? null;
  analysis.attempt = row.attempt ?? analysis.attempt;
  analysis.progress = row.progress ?? analysis.progress;
  analysis.error = row.error ?? analysis.error;
  analysis.message = row.message ?? analysis.message;
  if (typeof row.findings === "number") analysis.findings = row.findings;
}

/** Why a list of the job's events is empty: `gone`, `arriving` until the first one is here, `over`, or `yet`. */
export function emptiness(job) {
  if (job.incomplete) return "gone";
  if (job.events.length + job.dropped === 0) return "arriving";
  return isTerminal(job.status) ? "over" : "yet";
}

/** How far an analysis is within its phase: `{ share }` from 0 to 1, or no share while the total isn't known. */
export function progressOf(analysis) {
  const progress = analysis.progress;
  if (!progress || isTerminal(analysis.status)) return undefined;
  const share = progress.total > 0 ? Math.min(1, progress.done / progress.total) : undefined;
  return { ...progress, share };
}

/** How many findings of each severity. */
export function countLevels(findings) {
  const counts = { error: 0, warning: 0, note: 0 };
  for (const finding of findings) counts[levelOf(finding)] += 1;
  return counts;
}

/** SARIF's level; absent means warning (SARIF 2.1.0 §3.27.10), and what we don't know is a note. */
export function levelOf(finding) {
  const level = finding.level ?? "warning";
  return level === "error" || level === "warning" ? level : "note";
}

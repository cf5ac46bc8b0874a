// Where a job's stream is, and how long to wait before the next try. Pure.

const BACKOFF_MS = [0, 500, 1000, 2000, 4000, 8000, 15_000];

/** The wait before try `attempt` (from 0): exponential, each between half and the whole, so that pages don't come back in step. */
export function backoff(attempt, random) {
  const most = BACKOFF_MS[Math.min(attempt, BACKOFF_MS.length - 1)];
  return Math.round(most / 2 + (most / 2) * random);
}

/** Where a job's stream is, and what the next message means for it. Pure. */
export class Place {
  epoch = undefined;
  offset = 0;
  #anyOffset = false;

  /** `take` it, `old` (seen before), `gap` (ask again from here) or `reset` (another epoch: start over). */
  judge(epoch, offset) {
    if (this.epoch !== undefined && epoch !== this.epoch) return "reset";
    this.epoch = epoch;
    if (offset <= this.offset) return "old";
    if (offset !== this.offset + 1 && !this.#anyOffset) return "gap";
    this.#anyOffset = false;
    this.offset = offset;
    return "take";
  }

  /** The hub can't give what is missing: go on from wherever it does. */
  skip(epoch) {
    if (epoch !== this.epoch) this.offset = 0;
    this.epoch = epoch;
    this.#anyOffset = true;
  }

  reset() {
    this.epoch = undefined;
    this.offset = 0;
    this.#anyOffset = false;
  }
}

// One job from its row and its events: the row first (so that an unknown id is said at once), then the stream.
import { apiPath } from "./api.js";
import { fold, isTerminal, newJob, takeRow } from "./store.js";

/**
 * Follows a job until `signal` aborts. `changed(state)` after each change; `ended(state)` once, when it is over. Rejects
 * when the job is unknown or the hub can't be reached.
 */
export async function follow({ api, live, signal, eventId, changed, ended }) {
  let row = await api.get(apiPath("jobs", eventId), { signal });
  let state = newJob(eventId);
  let over = false;
  takeRow(state, row);
  const finish = () => {
    if (!isTerminal(state.status) || over) return;
    over = true;
    ended?.(state);
  };
  const readRow = async () => {
    try {
      row = await api.get(apiPath("jobs", eventId), { signal });
      takeRow(state, row);
      changed(state);
      finish();
    } catch {
      // The stream goes on, and the next message asks again.
    }
  };
  const handle = live.follow(eventId, {
    event: (data) => {
      const verdict = fold(state, data);
      if (verdict === "gap") handle.restart();
      if (verdict !== "next") return;
      changed(state);
      finish();
    },
    subscribed: ({ recovered, status }) => {
      state.subscribed = true;
      if (recovered === false) {
        // Part of the events is gone for good: from here on the row is the truth.
        state.incomplete = true;
        state.status = status ?? state.status;
        readRow();
      }
      changed(state);
    },
    reset: () => {
      state = newJob(eventId);
      takeRow(state, row);
      changed(state);
    },
    error: () => readRow(),
    ended: () => isTerminal(state.status),
  }, signal);
  changed(state);
  finish();
  return { state: () => state };
}

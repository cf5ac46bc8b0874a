// One upload: how far it is, how fast, how long still; what stopped it and what the reader can do.
import { explain } from "../lib/api.js";
import { fill, h, say, setText } from "../lib/dom.js";
import { bytes, duration, percent, rate } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { attempt, button, confirm, progressBar } from "../lib/widgets.js";

export function uploadRow(item, { uploads, go }) {
  const bar = progressBar(t("upload.progress", { name: item.name }));
  const share = h("span.upload-share.num");
  const figures = h("div.upload-figures.num.muted");
  const message = h("div.upload-message");
  const actions = h("div.upload-actions");
  const element = h(
    "li.card.upload",
    h("div.upload-icon", icon("file", 20)),
    h("div.upload-body", h("div.upload-line", h("span.upload-name", { title: item.name }, item.name), share), bar.element, figures, message),
    actions,
  );
  const discard = async () => {
    if (item.offset > 0 && item.state !== "started") {
      const sure = await confirm({ title: t("upload.discard_title"), text: t("upload.discard_text", { name: item.name }), yes: t("upload.discard") });
      if (!sure) return;
    }
    await attempt(() => uploads.discard(item));
  };
  let shown = "";
  let said = -1;
  const update = () => {
    const part = item.size ? item.done / item.size : 1;
    const active = item.state === "uploading";
    element.dataset.state = item.state;
    bar.update(part);
    setText(share, percent(part));
    setText(figures, figuresOf(item, active));
    const text = messageOf(item);
    if (text) setText(message, text);
    message.hidden = !text;
    // Said at each quarter, not at each chunk.
    const quarter = Math.floor(part * 4);
    if (active && quarter > said) {
      if (said >= 0) say(t("upload.said_share", { name: item.name, share: percent(part) }));
      said = quarter;
    }
    if (shown === item.state) return;
    shown = item.state;
    message.setAttribute("role", item.state === "failed" ? "alert" : "note");
    fill(actions, actionsOf(item, { uploads, go, discard }));
  };
  return { element, update };
}

function figuresOf(item, active) {
  const parts = [t("upload.of", { done: bytes(item.done), size: bytes(item.size) })];
  const speed = item.rate;
  if (active && speed !== undefined) {
    parts.push(rate(speed));
    if (speed > 0) parts.push(t("upload.left", { time: duration(((item.size - item.done) / speed) * 1000) }));
  } else if (item.state !== "uploaded" || !item.error) {
    parts.push(t(`upload.state_${item.state}`));
  }
  return parts.join(" · ");
}

function messageOf(item) {
  if (item.state === "failed") return explain(item.error);
  if (item.state === "uploaded" && item.error) return t("upload.start_failed", { why: explain(item.error) });
  if (item.state === "retrying") {
    const seconds = Math.max(0, Math.ceil((item.retryAt - Date.now()) / 1000));
    return `${explain(item.error)} ${t("upload.retry_in", { time: duration(seconds * 1000) })}`;
  }
  return "";
}

function actionsOf(item, { uploads, go, discard }) {
  const drop = button(t("upload.discard"), { name: "trash", on: discard });
  switch (item.state) {
    case "waiting":
    case "uploading":
      return [button(t("upload.pause"), { name: "pause", on: () => uploads.pause(item) }), drop];
    case "retrying":
      return [button(t("upload.try_now"), { name: "retry", on: () => item.wake?.() }), button(t("upload.pause"), { name: "pause", on: () => uploads.pause(item) }), drop];
    case "paused":
      return [button(t("upload.resume"), { name: "play", kind: "primary", on: () => uploads.resume(item) }), drop];
    case "failed":
      return [button(t("action.again"), { name: "retry", kind: "primary", on: () => uploads.resume(item) }), drop];
    case "uploaded":
      return [button(t("upload.start"), { name: "play", kind: "primary", on: () => uploads.startJob(item) }), drop];
    case "started":
      return [button(t("upload.watch"), { name: "next", kind: "primary", on: () => go(`/jobs/${encodeURIComponent(item.eventId)}`) })];
    default:
      return [];
  }
}

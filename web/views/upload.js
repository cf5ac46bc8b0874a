// Drop a file, watch it go, and be taken to its job.
import { calmly, fill, h, say } from "../lib/dom.js";
import { bytes } from "../lib/format.js";
import { t } from "../lib/i18n.js";
import { icon } from "../lib/icons.js";
import { capabilities } from "../lib/tus.js";
import { isSameFile } from "../lib/unfinished.js";
import { fingerprint } from "../lib/upload.js";
import { attempt, button, confirm, pageHead, timeAgo, toast } from "../lib/widgets.js";
import { uploadRow } from "./upload-row.js";

const START = "munjigi.start";

function startsAtOnce() {
  try {
    return localStorage.getItem(START) !== "no";
  } catch {
    return true;
  }
}

export default function upload(root, context) {
  const { api, uploads, signal, go } = context;
  const choice = modelChoice(api, signal);
  const add = (files) => {
    const added = [];
    for (const file of files) {
      if (file.size === 0) toast(t("upload.empty_file", { name: file.name }), { kind: "bad" });
      else if (uploads.items.some((item) => item.state !== "started" && fingerprint(item.file) === fingerprint(file))) toast(t("upload.already", { name: file.name }), { kind: "bad" });
      else added.push(uploads.add(file, choice.value()));
    }
    if (added.length > 0) say(t("upload.said", { n: added.length, name: added[0].name }));
  };
  const list = h("ul.upload-list", { "aria-label": t("upload.list") });
  const before = h("section.remembered");
  root.append(
    pageHead(t("upload.title"), h("p.lead", t("upload.lead"))),
    dropZone(root, add, signal),
    choice.element,
    list,
    before,
    recentJobs(api, signal),
  );
  const rows = new Map();
  const show = () => {
    showRows(list, rows, context);
    showRemembered(before, context, { add, choice });
    // One file that was started from here: on to its job. With several the reader chooses.
    const [only] = uploads.items;
    if (uploads.items.length === 1 && only.state === "started" && !only.shown) {
      only.shown = true;
      uploads.items = [];
      go(`/jobs/${encodeURIComponent(only.eventId)}`);
    }
  };
  uploads.onChange(calmly(() => !signal.aborted && show(), 100), signal);
  show();
  uploads.sync(signal).catch(() => {
    // The memory of this browser has to do.
  });
  return t("upload.title");
}

function dropZone(root, add, signal) {
  const picker = h("input.visually-hidden", { type: "file", id: "picker", multiple: true, tabindex: "-1", "aria-label": t("upload.choose"), on: { change: () => {
    add([...picker.files]);
    picker.value = "";
  } } });
  const limit = h("span", "");
  capabilities().then(({ max }) => max && fill(limit, ` · ${t("upload.limit", { size: bytes(max) })}`));
  const zone = h(
    "div.drop",
    h("span.drop-icon", icon("box", 32)),
    h("p.drop-title", t("upload.drop")),
    h("p.muted", t("upload.or"), " ", h("button.link", { type: "button", id: "choose", on: { click: () => picker.click() } }, t("upload.choose"))),
    h("p.drop-kinds.muted", "zip · tar · tar.gz · tar.zst · ", t("upload.single"), limit),
    picker,
  );
  // The whole window takes a drop: a file that misses the zone must not replace the page.
  let depth = 0;
  const isFile = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
  const over = (on) => zone.classList.toggle("over", on);
  window.addEventListener("dragenter", (event) => {
    if (!isFile(event)) return;
    depth += 1;
    over(true);
  }, { signal });
  window.addEventListener("dragleave", () => {
    depth = Math.max(0, depth - 1);
    if (depth === 0) over(false);
  }, { signal });
  window.addEventListener("dragover", (event) => isFile(event) && event.preventDefault(), { signal });
  window.addEventListener("drop", (event) => {
    if (!isFile(event)) return;
    event.preventDefault();
    depth = 0;
    over(false);
    const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
    const folders = items.filter((item) => item.webkitGetAsEntry?.()?.isDirectory);
    if (folders.length > 0) toast(t("upload.folder"), { kind: "bad" });
    add(items.filter((item) => !folders.includes(item)).map((item) => item.getAsFile()).filter(Boolean));
  }, { signal });
  return zone;
}

// Which models look at the file. With one model there is nothing to choose, and it is only named.
function modelChoice(api, signal) {
  let models = ["source"];
  let start = startsAtOnce();
  const places = h("div.choice-models", { "aria-live": "polite" }, h("span.muted", t("models.loading")));
  api.get("/api/models", { signal }).then((answer) => {
    const known = answer?.models ?? [];
    if (known.length > 0 && !known.some((model) => models.includes(model.name))) models = [known[0].name];
    fill(places, known.length === 0 ? h("span.notice-inline", icon("bolt"), t("models.none")) : known.map((model) => modelBox(model, known.length > 1, models)));
  }, () => !signal.aborted && fill(places, h("span.muted", "source")));
  const element = h(
    "div.choice",
    h("span.choice-label", t("models.label")),
    places,
    h(
      "label.check",
      h("input", { type: "checkbox", checked: start, on: { change: (event) => {
        start = event.target.checked;
        try {
          localStorage.setItem(START, start ? "yes" : "no");
        } catch {
          // Storage is blocked: it holds for this page.
        }
      } } }),
      h("span", t("upload.start_at_once")),
    ),
  );
  return { element, value: () => ({ models: [...models], start }) };
}

function modelBox(model, several, models) {
  const state = h("span.muted.num", model.workers === 0 ? t("models.offline") : t("models.free", { free: model.free, n: model.workers }));
  if (!several) return h("span.model", icon("server"), h("strong", model.name), state);
  const box = h("input", { type: "checkbox", checked: models.includes(model.name), on: { change: () => {
    if (box.checked) models.push(model.name);
    else if (models.length > 1) models.splice(models.indexOf(model.name), 1);
    // A job needs at least one.
    else box.checked = true;
  } } });
  return h("label.check.model", box, h("strong", model.name), state);
}

function showRows(list, rows, context) {
  for (const [item, row] of rows) {
    if (context.uploads.items.includes(item)) continue;
    row.element.remove();
    rows.delete(item);
  }
  for (const item of context.uploads.items) {
    if (!rows.has(item)) {
      const row = uploadRow(item, context);
      rows.set(item, row);
      list.append(row.element);
    }
    rows.get(item).update();
  }
}

function showRemembered(place, context, page) {
  const known = context.uploads.remembered();
  const shape = JSON.stringify(known);
  if (place.dataset.shape === shape) return;
  place.dataset.shape = shape;
  if (known.length === 0) {
    fill(place);
    return;
  }
  fill(place, h("h2", t("remembered.title")), h("p.muted", t("remembered.text")), h("ul.upload-list", known.map((each) => rememberedRow(each, context, page))));
}

function rememberedRow(each, { uploads, go }, { add, choice }) {
  const picker = h("input.visually-hidden", { type: "file", tabindex: "-1", "aria-label": t("remembered.choose"), on: { change: () => {
    const [file] = picker.files;
    if (!file) return;
    if (isSameFile(file, each)) add([file]);
    else toast(t("remembered.other", { name: each.name }), { kind: "bad" });
    picker.value = "";
  } } });
  const discard = async () => {
    if (await confirm({ title: t("upload.discard_title"), text: t("upload.discard_text", { name: each.name }), yes: t("upload.discard") })) await attempt(() => uploads.discardRemembered(each), t("upload.discarded"));
  };
  const start = async () => {
    await attempt(async () => go(`/jobs/${encodeURIComponent(await uploads.startUploaded(each, choice.value().models))}`));
  };
  const figures = each.complete ? t("remembered.complete", { size: bytes(each.size) }) : t("remembered.had", { done: bytes(each.offset ?? 0), size: bytes(each.size) });
  const further = each.complete ? button(t("upload.start"), { name: "play", kind: "primary", on: start }) : [picker, button(t("remembered.choose"), { name: "play", kind: "primary", on: () => picker.click() })];
  return h(
    "li.card.upload.resumable",
    { data: { state: "resumable" } },
    h("div.upload-icon", icon("file", 20)),
    h("div.upload-body", h("div.upload-name", each.name), h("div.upload-figures.num.muted", figures, " · ", timeAgo(each.at))),
    h("div.upload-actions", further, button(t("upload.discard"), { name: "trash", on: discard })),
  );
}

function recentJobs(api, signal) {
  const place = h("section.recent");
  api.get("/api/jobs?limit=5", { signal }).then(async ({ jobs }) => {
    if (!jobs?.length) return;
    const { jobRow } = await import("./jobs.js");
    if (signal.aborted) return;
    fill(place, h("div.section-head", h("h2", t("recent.title")), h("a.quiet-link", { href: "/jobs" }, t("recent.all"))), h("div.card.rows", jobs.map((job) => jobRow(job).element)));
  }, () => {});
  return place;
}

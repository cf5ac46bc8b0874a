// The page's start: language, session, frame, and the view for the address.
import { api, ApiError, whenSignedOut } from "./lib/api.js";
import { calmly, fill, h, setText } from "./lib/dom.js";
import { percent } from "./lib/format.js";
import { chooseLanguage, currentLanguage, LANGUAGES, startLanguage, t } from "./lib/i18n.js";
import { brandMark, icon } from "./lib/icons.js";
import { Live } from "./lib/live.js";
import { startRouter } from "./lib/router.js";
import { Uploads } from "./lib/uploads.js";
import { attempt, errorState, skeleton } from "./lib/widgets.js";

const VIEWS = {
  upload: () => import("./views/upload.js"),
  jobs: () => import("./views/jobs.js"),
  job: () => import("./views/job.js"),
  findings: () => import("./views/findings.js"),
  status: () => import("./views/status.js"),
  security: () => import("./views/security.js"),
  settings: () => import("./views/settings.js"),
  "sign-in": () => import("./views/sign-in.js"),
};
const NAVIGATION = [
  ["/", "upload", "upload"],
  ["/jobs", "jobs", "jobs"],
  ["/status", "status", "status"],
  ["/security", "security", "shield"],
  ["/settings", "settings", "settings"],
];
const FOR_ADMINISTRATORS = ["status", "security"];
const SECTION = { upload: "upload", jobs: "jobs", job: "jobs", findings: "jobs", status: "status", security: "security", settings: "settings" };

const root = document.getElementById("app");
const uploads = new Uploads();
const live = new Live({ probe: () => api.get("/api/me") });
let me = null;
let router;
let frame = null;

async function whoAmI() {
  try {
    me = await api.get("/api/me", { quiet: true });
    uploads.setUser(me.userId);
  } catch (error) {
    if (!(error instanceof ApiError) || error.status !== 401) throw error;
    me = null;
  }
}

function cycleTheme() {
  const next = { undefined: "light", light: "dark", dark: undefined }[document.documentElement.dataset.theme];
  if (next) document.documentElement.dataset.theme = next;
  else delete document.documentElement.dataset.theme;
  try {
    if (next) localStorage.setItem("munjigi.theme", next);
    else localStorage.removeItem("munjigi.theme");
  } catch {
    // Storage is blocked: it holds for this page.
  }
}

function themeButton() {
  const element = h("button.icon-button", { type: "button", on: { click: () => {
    cycleTheme();
    show();
  } } });
  const show = () => {
    const theme = document.documentElement.dataset.theme ?? "auto";
    const label = t(`theme.${theme}`);
    element.title = label;
    element.setAttribute("aria-label", label);
    fill(element, icon({ light: "sun", dark: "moon", auto: "auto" }[theme]));
  };
  show();
  return element;
}

/** The choice of language; also on the sign-in page. */
function languageChoice() {
  return h(
    "label.language",
    icon("language"),
    h("span.visually-hidden", t("nav.language")),
    h(
      "select",
      { on: { change: async (event) => {
        await chooseLanguage(event.target.value);
        frame = null;
        router.redraw();
      } } },
      LANGUAGES.map(([code, name]) => h("option", { value: code, lang: code, selected: code === currentLanguage() }, name)),
    ),
  );
}

async function signOut() {
  for (const item of uploads.items) if (item.state === "uploading" || item.state === "retrying") uploads.pause(item);
  if (!(await attempt(() => api.post("/api/sign-out")))) return;
  location.assign("/sign-in");
}

function buildFrame() {
  const main = h("main.main", { id: "main" });
  const links = NAVIGATION.filter(([, name]) => me.admin || !FOR_ADMINISTRATORS.includes(name)).map(([href, name, glyph]) =>
    h("a.nav-link", { href, data: { section: name } }, icon(glyph), h("span", t(`nav.${name}`)), name === "upload" && h("span.nav-figure.num", { id: "uploading" })),
  );
  fill(
    root,
    h("a.skip", { href: "#main", on: { click: (event) => {
      event.preventDefault();
      (main.querySelector("h1") ?? main).focus();
    } } }, t("nav.skip")),
    h(
      "div.shell",
      h(
        "header.side",
        h("a.brand", { href: "/" }, brandMark(26), h("span", "Munjigi")),
        h("nav.nav", { "aria-label": t("nav.label") }, links),
        h(
          "div.side-foot",
          h("div.who", h("span.avatar", { "aria-hidden": "true" }, [...me.name][0]?.toUpperCase() ?? "?"), h("span.who-name", me.name)),
          h("div.side-tools", languageChoice(), themeButton(), h("button.icon-button", { type: "button", title: t("nav.sign_out"), "aria-label": t("nav.sign_out"), on: { click: signOut } }, icon("leave"))),
        ),
      ),
      main,
    ),
  );
  root.className = "";
  root.removeAttribute("aria-busy");
  return { main, links, figure: root.querySelector("#uploading") };
}

// The share of what is being uploaded, wherever the reader is.
const showUploading = calmly(() => {
  if (!frame?.figure) return;
  const active = uploads.items.filter((item) => item.state === "uploading" || item.state === "retrying");
  const [done, size] = active.reduce(([a, b], item) => [a + item.done, b + item.size], [0, 0]);
  setText(frame.figure, active.length ? percent(done / Math.max(1, size)) : "");
});
uploads.onChange(showUploading, new AbortController().signal);

function bare() {
  const main = h("main.bare", { id: "main" });
  fill(root, h("div.bare-tools", languageChoice(), themeButton()), main);
  root.className = "";
  root.removeAttribute("aria-busy");
  return { main, links: [] };
}

async function show(route, signal, moved) {
  try {
    if (!me) await whoAmI();
  } catch (error) {
    frame = null;
    fill(bare().main, errorState(error, () => router.redraw()));
    return;
  }
  if (signal.aborted) return;
  if (!me && route.view === "missing") {
    frame = null;
    await draw(bare().main, route, signal, moved);
    return;
  }
  if (!me && route.view !== "sign-in") {
    const back = route.pathname === "/" ? "" : `?back=${encodeURIComponent(route.pathname + location.search)}`;
    router.go(`/sign-in${back}`, { replace: true });
    return;
  }
  if (route.view === "sign-in") {
    frame = null;
    await draw(bare().main, route, signal, moved);
    return;
  }
  if (!frame) frame = buildFrame();
  for (const link of frame.links) {
    if (link.dataset.section === SECTION[route.view]) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  showUploading();
  await draw(frame.main, route, signal, moved);
}

async function draw(main, route, signal, moved) {
  const place = h("div.view", { data: { view: route.view } });
  fill(main, place);
  // Grey lines only when the view takes longer than a blink.
  const waiting = setTimeout(() => fill(place, skeleton(6)), 120);
  try {
    const load = VIEWS[route.view] ?? (() => import("./views/missing.js"));
    const { default: view } = await load();
    clearTimeout(waiting);
    if (signal.aborted) return;
    place.replaceChildren();
    const context = { me, api, live, uploads, signal, params: route.params, query: route.query, go: router.go, signedIn };
    const title = await view(place, context);
    if (signal.aborted) return;
    document.title = title ? `${title} · Munjigi` : "Munjigi";
  } catch (error) {
    clearTimeout(waiting);
    if (signal.aborted || error?.name === "AbortError") return;
    fill(place, errorState(error, () => router.redraw()));
  }
  if (moved) place.querySelector("h1")?.focus({ preventScroll: true });
}

async function signedIn(back) {
  me = null;
  frame = null;
  router.go(back, { replace: true });
}

whenSignedOut(() => {
  if (!me) return;
  me = null;
  frame = null;
  router?.go(`/sign-in?reason=ended&back=${encodeURIComponent(location.pathname + location.search)}`);
});

await startLanguage();
router = startRouter(show);

// Addresses to views. One AbortSignal a view: whatever a view starts ends with it.

const ROUTES = [
  [/^\/$/, "upload", []],
  [/^\/uploads$/, "upload", []],
  [/^\/jobs$/, "jobs", []],
  [/^\/jobs\/([^/]+)$/, "job", ["eventId"]],
  [/^\/jobs\/([^/]+)\/findings$/, "findings", ["eventId"]],
  [/^\/status$/, "status", []],
  [/^\/security$/, "security", []],
  [/^\/settings$/, "settings", []],
  [/^\/sign-in$/, "sign-in", []],
];

/** The view and its parameters for an address: `{ view: "missing" }` when there is none. */
export function match(pathname) {
  for (const [pattern, view, names] of ROUTES) {
    const found = pattern.exec(pathname);
    if (!found) continue;
    const params = {};
    try {
      names.forEach((name, index) => {
        params[name] = decodeURIComponent(found[index + 1]);
      });
    } catch {
      break;
    }
    return { view, params };
  }
  return { view: "missing", params: {} };
}

/** Starts routing: `show(route, signal, moved)` draws; links of our own origin stay within the page. */
export function startRouter(show) {
  let life = new AbortController();
  const draw = (moved) => {
    life.abort();
    life = new AbortController();
    const { pathname, search } = location;
    show({ ...match(pathname), query: new URLSearchParams(search), pathname }, life.signal, moved);
  };
  const go = (url, { replace = false } = {}) => {
    history[replace ? "replaceState" : "pushState"](null, "", url);
    window.scrollTo(0, 0);
    draw(true);
  };
  window.addEventListener("popstate", () => draw(true));
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = event.target instanceof Element ? event.target.closest("a[href]") : null;
    if (!link || link.target || link.hasAttribute("download") || link.origin !== location.origin) return;
    if (match(link.pathname).view === "missing") return;
    event.preventDefault();
    if (link.href !== location.href) go(link.href);
  });
  draw(false);
  return { go, redraw: () => draw(false) };
}

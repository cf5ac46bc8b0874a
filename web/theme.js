// Runs before the first paint, so that a remembered theme or language never flashes in late. A classic script: modules
// wait for the document.
(() => {
  const root = document.documentElement;
  try {
    const theme = localStorage.getItem("munjigi.theme");
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    const language = localStorage.getItem("munjigi.language") ?? navigator.language.slice(0, 2);
    root.lang = language === "ko" ? "ko" : "en";
  } catch {
    // Storage is blocked: the system's theme and English it is.
  }
  // The message table is asked for beside the modules, not after them.
  const preload = document.createElement("link");
  preload.rel = "modulepreload";
  preload.href = new URL(`i18n/${root.lang}.js`, document.currentScript.src).href;
  document.head.append(preload);
})();

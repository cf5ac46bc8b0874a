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
})();

// What the browser remembers of unfinished uploads, so that a reload doesn't lose them. The hub knows the truth: an offset
// here is only what to show before it was asked.

const MEMORY = "munjigi.uploads";
const REMEMBERED_MAX = 20;

/** All remembered uploads, oldest first; nothing where storage is blocked or holds something else. */
export function all() {
  try {
    const found = JSON.parse(localStorage.getItem(MEMORY) ?? "[]");
    return Array.isArray(found) ? found.filter((each) => typeof each?.url === "string" && each.url.startsWith("/api/uploads/")) : [];
  } catch {
    return [];
  }
}

function store(uploads) {
  try {
    localStorage.setItem(MEMORY, JSON.stringify(uploads.slice(-REMEMBERED_MAX)));
  } catch {
    // Storage is full or blocked: the upload goes on, only not after a reload.
  }
}

/** Remembers an upload, in place of what was known of the same url. */
export function put(upload) {
  store([...all().filter((each) => each.url !== upload.url), upload]);
}

/** Forgets the upload at `url`. */
export function forget(url) {
  store(all().filter((each) => each.url !== url));
}

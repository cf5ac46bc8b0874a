// Uploads begun earlier, from what the hub holds and what this browser remembers. Pure.

/**
 * Uploads to offer, newest first: the hub's list (`undefined` while it is not known) knows what is there and how much of it;
 * the browser's memory knows which file it was, and of a complete one that no job was made of it. `active` are the addresses
 * that a file of this page goes on with.
 */
export function unfinished(known, remembered, userId, active) {
  const mine = remembered.filter((each) => each.userId === userId);
  const offers = known
    ? known.filter((each) => !each.inUse && each.length !== null).map((each) => offer(each, mine)).filter((each) => !each.complete || each.key)
    : mine.map((each) => ({ ...each, complete: false }));
  return offers.filter((each) => !active.has(each.url)).sort((a, b) => new Date(b.at) - new Date(a.at));
}

function offer(each, mine) {
  const url = `/api/uploads/${encodeURIComponent(each.id)}`;
  const own = mine.find((one) => one.url === url);
  return { url, name: each.name ?? own?.name ?? each.id, size: each.length, offset: each.received, complete: each.complete, at: each.createdAt, lastModified: own?.lastModified, key: own?.key };
}

/** True when `file` is the one that was being uploaded, as far as can be told without reading it. */
export function isSameFile(file, each) {
  return file.name === each.name && file.size === each.size && (each.lastModified === undefined || file.lastModified === each.lastModified);
}

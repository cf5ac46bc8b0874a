// Quiet colours for code: comments, strings, numbers and keywords, by what most languages share. It never has to be exact,
// only to help the eye, and is linear in the text.

const C_WORDS =
  "abstract assert async auto await bool boolean break byte case catch char class const continue debugger default delete do double else enum export extends extern final finally float for from function goto if implements import in inline instanceof int interface let long namespace native new null of package private protected public readonly return short signed sizeof static struct super switch synchronized this throw throws transient true false try type typedef typeof undefined union unsigned var void volatile while with yield";
const PYTHON_WORDS = "and as assert async await break class continue def del elif else except False finally for from global if import in is lambda None nonlocal not or pass raise return self True try while with yield";
const KEYWORDS = { c: new Set(C_WORDS.split(" ")), python: new Set(PYTHON_WORDS.split(" ")) };
const PYTHON_LIKE = /\.(py|pyi|pyw|rb|sh|yml|yaml|toml|ini|cfg|conf|properties|env)$/i;
const TEXT_MAX = 400_000;

const C_TOKEN = /\/\/[^\n]*|\/\*[^]*?(?:\*\/|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|`(?:\\[^]|[^`\\])*`?|\b0[xX][\da-fA-F_]+\b|\b\d[\d_.eE]*\b|[A-Za-z_$][\w$]*/g;
const PYTHON_TOKEN = /#[^\n]*|"""[^]*?(?:"""|$)|'''[^]*?(?:'''|$)|"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?|\b0[xX][\da-fA-F_]+\b|\b\d[\d_.eE]*\b|[A-Za-z_]\w*/g;

function kindOf(token, keywords) {
  const first = token[0];
  if (first === "#" || token.startsWith("//") || token.startsWith("/*")) return "comment";
  if (first === '"' || first === "'" || first === "`") return "string";
  if (first >= "0" && first <= "9") return "number";
  return keywords.has(token) ? "keyword" : null;
}

/** For each line of `text` its coloured parts: `[{ from, to, kind }]`, in UTF-16 units from 0. */
export function highlight(text, name) {
  const lines = text.split("\n");
  const parts = lines.map(() => []);
  if (text.length > TEXT_MAX) return { lines, parts };
  const python = PYTHON_LIKE.test(name);
  const keywords = python ? KEYWORDS.python : KEYWORDS.c;
  let line = 0;
  let start = 0;
  for (const match of text.matchAll(python ? PYTHON_TOKEN : C_TOKEN)) {
    const kind = kindOf(match[0], keywords);
    if (!kind) continue;
    let from = match.index;
    const end = from + match[0].length;
    while (start + lines[line].length < from) {
      start += lines[line].length + 1;
      line += 1;
    }
    // A token may cross lines; each line gets its part.
    let at = line;
    let begin = start;
    while (from < end) {
      const to = Math.min(end, begin + lines[at].length);
      if (to > from) parts[at].push({ from: from - begin, to: to - begin, kind });
      begin += lines[at].length + 1;
      from = begin;
      at += 1;
      if (at >= lines.length) break;
    }
  }
  return { lines, parts };
}

/**
 * Cuts a line into pieces that neither a coloured part nor a mark crosses: `[{ text, kind, marks }]`, `marks` the indices of
 * the marks that cover it.
 */
export function pieces(text, parts, marks) {
  const cuts = new Set([0, text.length]);
  for (const { from, to } of [...parts, ...marks]) {
    if (from > 0 && from < text.length) cuts.add(from);
    if (to > 0 && to < text.length) cuts.add(to);
  }
  const sorted = [...cuts].sort((a, b) => a - b);
  const out = [];
  for (let index = 0; index + 1 < sorted.length; index += 1) {
    const from = sorted[index];
    const to = sorted[index + 1];
    out.push({
      text: text.slice(from, to),
      kind: parts.find((part) => part.from <= from && part.to >= to)?.kind ?? null,
      marks: marks.flatMap((mark, position) => (mark.from <= from && mark.to >= to ? [position] : [])),
    });
  }
  return out;
}

"""Readers of what an origin got, from strict to lenient: where they disagree, one message may become two."""
import re
from dataclasses import dataclass, field

TOKEN = re.compile(rb"^[A-Za-z0-9!#$%&'*+.^_`|~-]+$")


@dataclass
class Reading:
    messages: list = field(default_factory=list)
    """Whole messages: method, target, bytes of the body."""


@dataclass(frozen=True)
class Reader:
    """In what it is lenient."""

    bare_lf: bool = False
    bare_cr: bool = False
    fold: bool = False
    names: bool = False
    """Takes names with blanks or control characters around them."""
    length_first: bool = False
    """With both lengths, believes Content-Length; else Transfer-Encoding."""
    coding: bool = False
    """Takes every coding that holds `chunked` for it."""
    sizes: bool = False
    """Reads sizes as C's strtol does."""

    def read(self, stream):
        reading, rest = Reading(), stream
        while rest:
            rest = self.message(rest.lstrip(b"\r\n"), reading)
        return reading

    def message(self, stream, reading):
        """Reads one message; what is behind it, or nothing when it is not whole or not understood."""
        lines, rest = self.head(stream)
        if lines is None:
            return b""
        start = lines[0].split(b" ")
        if len(start) != 3 or not start[2].startswith(b"HTTP/1."):
            return b""
        fields = self.fields(lines[1:])
        if fields is None:
            return b""
        size, rest = self.body(fields, rest)
        if size is None:
            return b""
        reading.messages.append(f"{start[0].decode('latin-1')} {start[1].decode('latin-1')} {size}")
        return rest

    def head(self, stream):
        ends = [rb"\r\n"] + ([rb"\n"] if self.bare_lf else []) + ([rb"\r"] if self.bare_cr else [])
        end = re.compile(rb"(?:" + rb"|".join(ends) + rb")")
        lines, at = [], 0
        while found := end.search(stream, at):
            line = stream[at:found.start()]
            at = found.end()
            if not line and lines:
                return lines, stream[at:]
            lines.append(line)
        return None, b""

    def fields(self, lines):
        fields = []
        for line in lines:
            if line[:1] in b" \t" and line:
                if not self.fold or not fields:
                    if not self.names:
                        return None
                else:
                    fields[-1] = (fields[-1][0], fields[-1][1] + b" " + line.strip())
                    continue
            name, colon, value = line.partition(b":")
            if self.names:
                name = name.strip(b" \t\x00\x0b\x0c\xa0")
            elif not colon or not TOKEN.match(name) or re.search(rb"[\r\n\x00]", value):
                return None
            fields.append((name.lower(), value.strip(b" \t")))
        return fields

    def body(self, fields, rest):
        lengths = [value for name, value in fields if name == b"content-length"]
        codings = [value for name, value in fields if name == b"transfer-encoding"]
        if codings and not (lengths and self.length_first):
            last = codings[-1].lower()
            chunked = b"chunked" in last if self.coding else last == b"chunked"
            return self.chunks(rest) if chunked else (None, b"")
        if not lengths:
            return 0, rest
        text = lengths[0] if self.length_first else lengths[-1]
        size = self.number(text, 10)
        if size is None or size > len(rest):
            return None, b""
        return size, rest[size:]

    def number(self, text, base):
        digits = rb"[0-9]+" if base == 10 else rb"[0-9A-Fa-f]+"
        if self.sizes:
            found = re.match(rb"\s*\+?(?:0[xX])?(" + digits + rb")", text)
            return int(found[1], base) if found else None
        return int(text, base) if re.fullmatch(digits, text) else None

    def chunks(self, rest):
        total = 0
        while True:
            end = re.search(rb"\r?\n" if self.bare_lf else rb"\r\n", rest)
            if not end:
                return None, b""
            size = self.number(rest[:end.start()].split(b";")[0].rstrip(b" \t"), 16)
            rest = rest[end.end():]
            if size is None:
                return None, b""
            if size == 0:
                break
            if len(rest) < size + 2:
                return None, b""
            total, rest = total + size, rest[size:]
            if not rest.startswith(b"\r\n") and not (self.bare_lf and rest.startswith(b"\n")):
                return None, b""
            rest = rest[2 if rest.startswith(b"\r\n") else 1:]
        while True:
            end = re.search(rb"\r?\n" if self.bare_lf else rb"\r\n", rest)
            if not end:
                return None, b""
            line, rest = rest[:end.start()], rest[end.end():]
            if not line:
                return total, rest


READERS = (
    Reader(),
    Reader(bare_lf=True),
    Reader(bare_cr=True, bare_lf=True),
    Reader(fold=True, names=True),
    Reader(length_first=True, sizes=True),
    Reader(coding=True, names=True, sizes=True, bare_lf=True, fold=True),
)


def readings(stream):
    """What each reader makes of it; the first one is strict."""
    return [reader.read(stream) for reader in READERS]

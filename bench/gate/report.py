"""One table with ratios, one plot."""
import statistics
from html import escape

from cases import PLAIN


def median(figures):
    return statistics.median(figure.value for figure in figures)


def rows(cases, names, results):
    """(case, {server: median}, best peer, ratio) for each case that the gate was measured in."""
    made = []
    for case in cases:
        medians = {name: median(results[case.name, name]) for name in names if results.get((case.name, name))}
        peers = {name: medians[name] for name in case.versus if name in medians}
        best = min(peers, key=peers.get) if peers else None
        ratio = None
        if best and "gate" in medians:
            # Round by round: what slows down the machine for a minute slows down both.
            pairs = zip(results[case.name, "gate"], results[case.name, best])
            ratio = statistics.median(gate.value / peer.value for gate, peer in pairs)
        made.append((case, medians, best, ratio))
    return made


def show(value):
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.3f}"


def table(made, names):
    head = ["case", "unit", *names, "ratio", "to", "limit"]
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * len(names) + "---:|---|---|"]
    for case, medians, best, ratio in made:
        if not medians:
            continue
        cells = [case.name, case.unit, *(show(medians.get(name)) for name in names)]
        verdict = "" if case.limit is None else f"≤ {case.limit:g}"
        if ratio is not None and case.limit is not None and ratio > case.limit:
            verdict += " missed"
        cells += ["–" if ratio is None else f"{ratio:.2f}", best or "", verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def rounds(cases, names, results):
    """What each round showed: a median alone hides how noisy the machine was."""
    lines = []
    for case in cases:
        for name in names:
            figures = results.get((case.name, name))
            if not figures:
                continue
            each = " / ".join(show(figure.value) for figure in figures)
            more = ""
            if figures[0].rate:
                more = f"; {statistics.median(f.rate for f in figures):,.1f}/s"
            if figures[0].p99:
                more += f"; p50 {statistics.median(f.p50 for f in figures):,.0f} µs, p99 {statistics.median(f.p99 for f in figures):,.0f} µs"
            if figures[0].busy:
                more += f"; busy {statistics.median(f.busy for f in figures):.0%}"
            memory = max(figure.memory for figure in figures) / (1 << 20)
            lines.append(f"{case.name}, {name}: {each} {case.unit}{more}; {memory:.1f} MiB")
    return "\n".join(lines)


def growth(cases, names, results):
    """CPU per request with more routes and more backends, as a multiple of the plain case in the same round."""
    lines = []
    for name in names:
        plain = results.get((PLAIN, name), [])
        for case in cases:
            figures = results.get((case.name, name), [])
            if not (case.grows and figures and plain):
                continue
            if len(figures) != len(plain):
                lines.append(f"{case.name}, {name}: NOT RUN in all rounds")
                continue
            ratio = statistics.median(grown.value / one.value for grown, one in zip(figures, plain))
            lines.append(f"{case.name}, {name}: {ratio:.3f} × the plain case")
    return "\n".join(lines)


COLOURS = {"gate": "#0b7285", "nginx": "#868e96", "haproxy": "#adb5bd"}


def plot(made, title):
    """Ratios as bars: the gate beside nginx and HAProxy, each against the better of the two."""
    shown = [row for row in made if row[3] is not None]
    names = ("gate", "nginx", "haproxy")
    left, bar, gap, width = 210, 14, 16, 760
    scale = (width - left - 60) / 2.5
    height = 70 + len(shown) * (bar * len(names) + gap)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="system-ui, sans-serif" font-size="13">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        f'<text x="12" y="24" font-size="15" font-weight="600">{escape(title)}</text>',
    ]
    for place, name in enumerate(names):
        out.append(f'<rect x="{left + place * 100}" y="36" width="12" height="12" fill="{COLOURS[name]}"/>')
        out.append(f'<text x="{left + place * 100 + 18}" y="47">{name}</text>')
    y = 62
    for case, medians, best, _ in shown:
        out.append(f'<text x="{left - 10}" y="{y + bar * 2}" text-anchor="end">{escape(case.name)}</text>')
        for name in names:
            if name in medians:
                ratio = medians[name] / medians[best]
                length = min(ratio, 2.5) * scale
                out.append(f'<rect x="{left}" y="{y}" width="{length:.1f}" height="{bar - 2}" fill="{COLOURS[name]}"/>')
                out.append(f'<text x="{left + length + 5:.1f}" y="{y + bar - 4}" font-size="11">{ratio:.2f}</text>')
            y += bar
        y += gap
    one = left + scale
    out.append(f'<line x1="{one:.1f}" y1="56" x2="{one:.1f}" y2="{height - 8}" stroke="#212529" stroke-dasharray="3 3"/>')
    out.append("</svg>\n")
    return "\n".join(out)

//! Lines, a table, a plot.

use std::fmt;
use std::fmt::Write;

pub struct Row {
    pub family: &'static str,
    pub rules: usize,
    pub engine: &'static str,
    pub addresses: &'static str,
    pub free: f64,
    pub chain: f64,
    /// Seconds.
    pub build: f64,
    pub bytes_per_rule: f64,
}

impl fmt::Display for Row {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{:17} {:>8} rules  {:12} {:8} free {:>9.1} ns  chain {:>9.1} ns  build {:.3} s  {:.1} bytes/rule",
            self.family, self.rules, self.engine, self.addresses, self.free, self.chain, self.build, self.bytes_per_rule,
        )
    }
}

pub fn table(rows: &[Row]) -> String {
    let mut text = String::from(
        "| family | rules | structure | uniform | hits | misses | uniform, chained | build, s | bytes per rule |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows.iter().filter(|row| row.addresses == "uniform") {
        let other = |addresses: &str| {
            rows.iter()
                .find(|other| {
                    other.addresses == addresses
                        && (other.family, other.rules, other.engine)
                            == (row.family, row.rules, row.engine)
                })
                .map_or_else(|| "–".to_owned(), |other| format!("{:.1}", other.free))
        };
        // What C allocates is not counted.
        let bytes = if row.engine == "nginx geo" || row.rules < 1_000 {
            "–".to_owned()
        } else {
            format!("{:.1}", row.bytes_per_rule)
        };
        let _ = writeln!(
            text,
            "| {} | {} | {} | {:.1} | {} | {} | {:.1} | {:.3} | {bytes} |",
            row.family,
            row.rules,
            row.engine,
            row.free,
            other("hit"),
            other("miss"),
            row.chain,
            row.build,
        );
    }
    text
}

const COLOURS: [(&str, &str); 5] = [
    ("munjigi", "#c2410c"),
    ("treebitmap", "#1d4ed8"),
    ("prefix-trie", "#15803d"),
    ("nginx geo", "#7e22ce"),
    ("linear scan", "#6b7280"),
];

/// Uniform addresses, no look-up waiting for another: IPv4 on the left, IPv6 on the right.
pub fn plot(rows: &[Row]) -> String {
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 920 380\" font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<rect width=\"920\" height=\"380\" fill=\"#fff\"/>\n",
    );
    for (panel, family) in ["IPv4", "IPv6"].into_iter().enumerate() {
        one_plot(&mut svg, rows, family, 60.0 + 440.0 * panel as f64);
    }
    for (place, (name, colour)) in COLOURS.into_iter().enumerate() {
        let x = 60 + place * 150;
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"352\" width=\"12\" height=\"12\" fill=\"{colour}\"/><text x=\"{}\" y=\"362\">{name}</text>",
            x + 18
        );
    }
    svg.push_str("</svg>\n");
    svg
}

/// Powers of ten of nanoseconds, upwards: a linear scan of a hundred thousand rules takes more than 10⁵.
const POWERS: [&str; 7] = ["1", "10", "100", "1k", "10k", "100k", "1M"];

fn one_plot(svg: &mut String, rows: &[Row], family: &str, left: f64) {
    let (width, top, height) = (370.0, 40.0, 260.0);
    let x = |rules: usize| left + width * ((rules as f64).log10() - 1.0) / 5.7;
    let y = |nanoseconds: f64| top + height * (1.0 - nanoseconds.max(1.0).log10() / (POWERS.len() - 1) as f64);
    let _ = writeln!(
        svg,
        "<text x=\"{left}\" y=\"24\" font-weight=\"600\">{family}: ns per look-up, uniform addresses</text>"
    );
    for (power, name) in (0..).zip(POWERS) {
        let at = y(10_f64.powi(power));
        let _ = writeln!(
            svg,
            "<line x1=\"{left}\" y1=\"{at:.1}\" x2=\"{:.1}\" y2=\"{at:.1}\" stroke=\"#e5e7eb\"/><text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{name}</text>",
            left + width,
            left - 6.0,
            at + 4.0,
        );
    }
    for (rules, name) in [(10, "10"), (1_000, "1k"), (100_000, "100k"), (1_000_000, "1M"), (5_000_000, "5M")] {
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{name}</text>",
            x(rules),
            top + height + 18.0
        );
    }
    for (engine, colour) in COLOURS {
        let points: Vec<String> = rows
            .iter()
            .filter(|row| (row.family, row.engine, row.addresses) == (family, engine, "uniform"))
            .map(|row| format!("{:.1},{:.1}", x(row.rules), y(row.free)))
            .collect();
        let _ = writeln!(
            svg,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>",
            points.join(" ")
        );
        for point in &points {
            if let Some((x, y)) = point.split_once(',') {
                let _ = writeln!(svg, "<circle cx=\"{x}\" cy=\"{y}\" r=\"3\" fill=\"{colour}\"/>");
            }
        }
    }
}

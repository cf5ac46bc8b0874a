//! Findings for a person at a terminal.
//!
//! Whatever comes from the input is shown without control characters and without marks that reorder text, since both
//! can make a terminal lie.

use super::coverage::{Coverage, Status};
use super::explanations::Card;
use super::sarif::{self, PhysicalLocation, Score};
use super::summary::Summary;

const WIDTH: usize = 100;
/// Longest line of code that is shown, in characters.
const CODE_CHARS_MAX: usize = 160;
/// Lines of one region that are shown.
const CODE_LINES_MAX: usize = 6;

/// How texts are shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    colour: bool,
}

impl Style {
    /// Without colours.
    #[must_use]
    pub fn plain() -> Self {
        Self { colour: false }
    }

    /// With the colours of an ANSI terminal.
    #[must_use]
    pub fn coloured() -> Self {
        Self { colour: true }
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }

    fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    fn dim(self, text: &str) -> String {
        self.paint("2", text)
    }

    fn level(self, level: &str) -> String {
        let code = match level {
            "error" => "1;31",
            "warning" => "1;33",
            _ => "1;36",
        };
        self.paint(code, level)
    }
}

/// Text from outside without what a terminal would obey.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\t' => '\t',
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => {
                '\u{fffd}'
            }
            c if c.is_control() => '\u{fffd}',
            c => c,
        })
        .collect()
}

/// Columns a character takes.
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x0300..=0x036f | 0x200b..=0x200d | 0xfe00..=0xfe0f => 0,
        0x1100..=0x115f
        | 0x2e80..=0xa4cf
        | 0xac00..=0xd7a3
        | 0xf900..=0xfaff
        | 0xfe30..=0xfe6f
        | 0xff00..=0xff60 => 2,
        0xffe0..=0xffe6 | 0x1f300..=0x1faff | 0x20000..=0x3fffd => 2,
        _ => 1,
    }
}

/// One finding as `scan` lists it.
#[must_use]
pub fn listed(card: &Card, result: &sarif::Result, style: Style) -> String {
    let mut out = heading(card, result, style);
    match result.steps() {
        [] => {
            if let Some(place) = result.place() {
                out.push_str(&code(place, '^', style));
            }
        }
        steps => out.push_str(&flow(steps, style)),
    }
    out.push_str(&entry("fix", &card.fix, style));
    out.push_str(&entry(
        "score",
        &score_line(&result.properties.munjigi),
        style,
    ));
    out.push_str(&entry("id", result.id(), style));
    out
}

/// One finding with all that is known of it.
#[must_use]
pub fn explain(card: &Card, result: &sarif::Result, style: Style) -> String {
    let mut out = heading(card, result, style);
    match result.steps() {
        [] => {
            if let Some(place) = result.place() {
                out.push_str(&code(place, '^', style));
            }
        }
        steps => {
            out.push_str(&format!("\n  {}\n", style.bold("How the data gets there")));
            out.push_str(&flow(steps, style));
        }
    }
    for (title, text) in [
        ("Why it matters", &card.why),
        ("How to fix it", &card.fix),
        ("Limits of this rule", &card.limits),
    ] {
        if !text.is_empty() {
            out.push_str(&format!(
                "\n  {}\n{}",
                style.bold(title),
                wrapped(text, "  ", "  ")
            ));
        }
    }
    out.push_str(&examples(card, result, style));
    out.push_str(&score_table(&result.properties.munjigi, style));
    out.push_str(&format!("\n  {} {}\n", style.dim("id"), result.id()));
    out
}

fn heading(card: &Card, result: &sarif::Result, style: Style) -> String {
    let cwe = card
        .cwe
        .first()
        .map_or_else(String::new, |cwe| format!(", CWE-{cwe}"));
    let probability = result.properties.munjigi.probability;
    let mut out = format!(
        "{}: {} {}  {}\n",
        style.level(&result.level),
        style.bold(&card.name),
        style.dim(&format!("[{}{cwe}]", card.id)),
        style.dim(&format!("score {probability:.2}")),
    );
    if let Some(place) = result.place() {
        let function = result
            .locations
            .first()
            .and_then(|location| location.logical_locations.first())
            .map_or_else(String::new, |logical| {
                format!(", in `{}`", clean(&logical.fully_qualified_name))
            });
        out.push_str(&format!(
            "  {} {}{function}\n",
            style.dim("-->"),
            spot(place)
        ));
    }
    out.push_str(&wrapped(&clean(&result.message.text), "  ", "  "));
    out
}

fn spot(place: &PhysicalLocation) -> String {
    let region = place.region.region;
    format!(
        "{}:{}:{}",
        clean(&place.artifact_location.uri),
        region.start_line,
        region.start_column
    )
}

fn flow(steps: &[sarif::ThreadFlowLocation], style: Style) -> String {
    let mut out = String::new();
    for (index, step) in steps.iter().enumerate() {
        let kind = step.kinds.first().map_or("", String::as_str);
        let message = step
            .location
            .message
            .as_ref()
            .map_or_else(String::new, |message| clean(&message.text));
        let mark = match kind {
            "source" | "sink" => '^',
            _ => '~',
        };
        out.push_str(&format!(
            "  {:>3} {} {message}\n",
            index + 1,
            style.paint("36", &format!("{kind:<10}"))
        ));
        out.push_str(&code(&step.location.physical_location, mark, style));
    }
    out
}

/// The lines of a region with marks below what it covers.
fn code(place: &PhysicalLocation, mark: char, style: Style) -> String {
    let region = place.region.region;
    let shown = place.context_region.as_ref().unwrap_or(&place.region);
    let context = shown.region;
    let mut out = String::new();
    let shown = shown.snippet.text.split('\n').zip(context.start_line..);
    let lines = shown.filter(|(_, number)| (region.start_line..=region.end_line).contains(number));
    for (line, number) in lines.take(CODE_LINES_MAX) {
        let first_column = if number == context.start_line {
            context.start_column
        } else {
            1
        };
        let from = if number == region.start_line {
            region.start_column
        } else {
            1
        };
        let to = if number == region.end_line {
            region.end_column
        } else {
            u32::MAX
        };
        let line = line.trim_end_matches('\r');
        if number == region.end_line && number > region.start_line && to <= 1 {
            break;
        }
        out.push_str(&code_line(
            number,
            line,
            first_column,
            (from, to),
            (mark, style),
        ));
    }
    let lines = (region.end_line - region.start_line + 1) as usize;
    if lines > CODE_LINES_MAX {
        out.push_str(&format!(
            "         {} {}\n",
            style.dim("│"),
            style.dim(&format!("… {} more lines", lines - CODE_LINES_MAX))
        ));
    }
    out
}

fn code_line(
    number: u32,
    line: &str,
    first_column: u32,
    marked: (u32, u32),
    look: (char, Style),
) -> String {
    let (mark, style) = look;
    let (mut text, mut marks) = (String::new(), String::new());
    let mut column = first_column;
    let mut started = false;
    for (count, c) in clean(line).chars().enumerate() {
        if count >= CODE_CHARS_MAX {
            text.push('…');
            break;
        }
        let inside = column >= marked.0 && column < marked.1 && (started || !c.is_whitespace());
        started |= inside;
        match c {
            '\t' => {
                text.push_str("    ");
                marks.push_str(&if inside { mark } else { ' ' }.to_string().repeat(4));
            }
            c => {
                text.push(c);
                marks.push_str(
                    &if inside { mark } else { ' ' }
                        .to_string()
                        .repeat(columns(c)),
                );
            }
        }
        column = column.saturating_add(u32::try_from(c.len_utf16()).unwrap_or(1));
    }
    let bar = style.dim("│");
    let number = style.dim(&format!("{number:>8}"));
    let marks = style.paint("1;31", marks.trim_end());
    format!(
        "{number} {bar} {}\n         {bar} {marks}\n",
        text.trim_end()
    )
}

fn entry(title: &str, text: &str, style: Style) -> String {
    let plain = wrapped(text, "        ", "        ");
    format!(
        "  {}{}",
        style.dim(&format!("{title:<6}")),
        plain.get(8..).unwrap_or_default()
    )
}

/// Words in lines of at most [`WIDTH`] characters.
fn wrapped(text: &str, first: &str, rest: &str) -> String {
    let mut out = String::new();
    let (mut line, mut empty) = (first.to_owned(), true);
    for word in text.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            out.push_str(&line);
            out.push('\n');
            line = rest.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    out.push_str(&line);
    out.push('\n');
    out
}

fn score_line(score: &Score) -> String {
    let parts: Vec<String> = score
        .contributions
        .iter()
        .map(|part| format!("{} {:+.2}", part.feature, part.value))
        .collect();
    let parts = if parts.is_empty() {
        String::new()
    } else {
        format!(", {}", parts.join(", "))
    };
    format!(
        "{:.2} from base {:+.2}{parts}",
        score.probability, score.base
    )
}

fn score_table(score: &Score, style: Style) -> String {
    let mut out = format!("\n  {}\n", style.bold("Score"));
    out.push_str(&format!(
        "  {:<34} {:>7.2}\n",
        "base (prior of the rule, log-odds)", score.base
    ));
    for part in &score.contributions {
        let place = part.locations.first().map_or_else(String::new, |l| {
            format!("  line {}", l.physical_location.region.region.start_line)
        });
        out.push_str(&format!(
            "  {:<34} {:>+7.2}{}\n",
            part.feature,
            part.value,
            style.dim(&place)
        ));
    }
    out.push_str(&format!(
        "  {:<34} {:>7.2}\n",
        "margin (their sum)", score.margin
    ));
    out.push_str(&format!(
        "  {:<34} {:>7.2}\n",
        "probability, 1 / (1 + e^-margin)", score.probability
    ));
    let reliability = &score.reliability;
    let measured = match reliability.observed {
        Some(observed) => format!(
            "Of {} findings with such a score {:.0} % were true (between {:.2} and {:.2}).",
            reliability.n,
            observed * 100.0,
            reliability.low,
            reliability.high
        ),
        None => "How often such a score is right has not been measured yet: use it to order findings, not as a promise.".to_owned(),
    };
    out.push_str(&wrapped(&measured, "  ", "  "));
    if score.counterfactuals.is_empty() {
        out.push_str("  No edit was tried out for this finding.\n");
    }
    out
}

/// The example in the language of the file, or the first one.
fn examples(card: &Card, result: &sarif::Result, style: Style) -> String {
    let uri = result
        .place()
        .map_or("", |place| place.artifact_location.uri.as_str());
    let extension = crate::intake::extension(uri.as_bytes());
    let wanted = match extension.as_str() {
        "java" => "java",
        "py" | "pyw" => "python",
        "c" | "h" => "c",
        "ts" | "tsx" | "mts" | "cts" => "typescript",
        _ => "javascript",
    };
    let fallback = if wanted == "typescript" {
        "javascript"
    } else {
        wanted
    };
    let example = [wanted, fallback]
        .iter()
        .find_map(|language| {
            card.examples
                .iter()
                .find(|example| example.language == *language)
        })
        .or(card.examples.first());
    let Some(example) = example else {
        return String::new();
    };
    let mut out = String::new();
    for (title, text) in [
        ("Vulnerable", &example.vulnerable),
        ("Fixed", &example.fixed),
    ] {
        out.push_str(&format!(
            "\n  {}\n",
            style.bold(&format!("{title} ({})", example.language))
        ));
        for line in text.lines() {
            out.push_str(&format!("      {line}\n"));
        }
    }
    out
}

/// The last lines: what was found, and what was looked at.
#[must_use]
pub fn closing(summary: &Summary, coverage: &Coverage, style: Style) -> String {
    let plural = |n: u64, word: &str| format!("{n} {word}{}", if n == 1 { "" } else { "s" });
    let found = &summary.findings;
    let total = found.error + found.warning + found.note;
    let mut out = if total == 0 {
        style.bold("No findings")
    } else {
        let levels = [
            (found.error, "error"),
            (found.warning, "warning"),
            (found.note, "note"),
        ];
        let parts: Vec<String> = levels
            .iter()
            .filter(|(n, _)| *n > 0)
            .map(|(n, level)| plural(*n, level))
            .collect();
        format!(
            "{} ({})",
            style.bold(&plural(total, "finding")),
            parts.join(", ")
        )
    };
    out.push_str(&format!(
        " in {}",
        plural(summary.files.analysed, "analysed file")
    ));
    if summary.files.skipped > 0 {
        out.push_str(&format!(", {} skipped", summary.files.skipped));
    }
    if summary.files.truncated > 0 {
        out.push_str(&format!(
            ", {} not read to the end",
            summary.files.truncated
        ));
    }
    out.push('\n');
    let truncated = coverage
        .files
        .iter()
        .filter(|row| row.status == Status::Truncated);
    for row in truncated.take(10) {
        let reason = row.reason.as_deref().unwrap_or_default();
        out.push_str(&format!(
            "  {} {}: {}\n",
            style.level("warning"),
            clean(&row.path),
            clean(reason)
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_replaced() {
        assert_eq!(
            clean("a\x1b[31m\u{202e}b\tc\u{9b}"),
            "a\u{fffd}[31m\u{fffd}b\tc\u{fffd}"
        );
    }

    #[test]
    fn marks_stand_below_what_they_mark() {
        let shown = code_line(7, "\tx = \u{ac00}(id);", 1, (8, 10), ('^', Style::plain()));
        assert_eq!(
            shown,
            "       7 │     x = \u{ac00}(id);\n         │            ^^\n"
        );
        let cut = code_line(7, &"y".repeat(500), 1, (1, 3), ('~', Style::plain()));
        assert!(cut.contains('…') && cut.lines().all(|line| line.chars().count() < 200));
    }

    #[test]
    fn long_texts_are_wrapped() {
        let text = "word ".repeat(60);
        assert!(
            wrapped(&text, "  ", "  ")
                .lines()
                .all(|line| line.len() <= WIDTH)
        );
        assert_eq!(entry("fix", "do it", Style::plain()), "  fix   do it\n");
    }
}

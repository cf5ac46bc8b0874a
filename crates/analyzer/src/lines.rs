//! Byte spans → lines and UTF-16 columns, both from 1, as SARIF and editors count them.
//!
//! The one place where a column is computed. Spans from engines are clamped to the text and to whole characters, so
//! that a wrong span shows a wrong place, never a crash.

use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::finding::Span;

/// Bytes between two known UTF-16 counts: the price of one column, whatever the length of its line.
const STRIDE: usize = 1024;
/// Longest context in bytes; a longer one (a file in one line) is cut to a window around its region.
const CONTEXT_BYTES_MAX: usize = 2048;
/// What such a window shows before and after, in bytes.
const WINDOW_BYTES: usize = 240;
/// Whole lines of context before and after a region.
const CONTEXT_LINES: usize = 2;

/// A region in lines and UTF-16 columns, both from 1; the end column is exclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Region {
    pub start_line: u32,
    pub start_column: u32,
    pub end_line: u32,
    pub end_column: u32,
}

/// A text with its line starts.
#[derive(Debug)]
pub(crate) struct Lines<'t> {
    text: &'t str,
    starts: Vec<usize>,
    /// UTF-16 units before each multiple of [`STRIDE`] bytes (before the character there, if one straddles it).
    units: Vec<usize>,
}

fn utf16(text: &str) -> usize {
    text.chars().map(char::len_utf16).sum()
}

impl<'t> Lines<'t> {
    #[must_use]
    pub(crate) fn new(text: &'t str) -> Self {
        let starts = std::iter::once(0)
            .chain(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at + 1))
            .collect();
        let mut units = vec![0];
        let (mut at, mut sum) = (0, 0);
        while at < text.len() {
            let next = text.floor_char_boundary(units.len() * STRIDE);
            sum += utf16(text.get(at..next).unwrap_or_default());
            units.push(sum);
            at = next;
        }
        Self {
            text,
            starts,
            units,
        }
    }

    #[must_use]
    pub(crate) fn text(&self) -> &'t str {
        self.text
    }

    /// The span inside the text, on whole characters, and with at least one of them where the text has one.
    #[must_use]
    pub(crate) fn clamp(&self, span: &Span) -> Range<usize> {
        let offset = |n: u32| {
            usize::try_from(n)
                .unwrap_or(usize::MAX)
                .min(self.text.len())
        };
        let start = self.text.floor_char_boundary(offset(span.start));
        let end = self.text.ceil_char_boundary(offset(span.end)).max(start);
        if end > start {
            return start..end;
        }
        match self.text.get(start..).and_then(|rest| rest.chars().next()) {
            Some(c) => start..start + c.len_utf8(),
            None => self.text.floor_char_boundary(start.saturating_sub(1))..start,
        }
    }

    /// The line (from 1) that holds the byte `at`.
    fn line(&self, at: usize) -> usize {
        self.starts.partition_point(|start| *start <= at).max(1)
    }

    fn line_start(&self, line: usize) -> usize {
        self.starts
            .get(line.saturating_sub(1))
            .copied()
            .unwrap_or(0)
    }

    /// The end of a line, its line feed and carriage return left out.
    fn line_end(&self, line: usize) -> usize {
        let end = self
            .starts
            .get(line)
            .map_or(self.text.len(), |next| next - 1);
        let start = self.line_start(line);
        let carriage = end > start
            && self.text.as_bytes().get(end - 1) == Some(&b'\r')
            && line < self.starts.len();
        if carriage { end - 1 } else { end }
    }

    /// UTF-16 units before the byte `at`, which is on a character's border.
    fn units_before(&self, at: usize) -> usize {
        let stride = at / STRIDE;
        let from = self.text.floor_char_boundary(stride * STRIDE);
        self.units.get(stride).copied().unwrap_or(0)
            + utf16(self.text.get(from..at).unwrap_or_default())
    }

    /// Lines and columns of a range on whole characters.
    #[must_use]
    pub(crate) fn region(&self, range: &Range<usize>) -> Region {
        let place = |at: usize| {
            let line = self.line(at);
            let column = self.units_before(at) - self.units_before(self.line_start(line)) + 1;
            (
                u32::try_from(line).unwrap_or(u32::MAX),
                u32::try_from(column).unwrap_or(u32::MAX),
            )
        };
        let (start_line, start_column) = place(range.start);
        let (end_line, end_column) = place(range.end);
        Region {
            start_line,
            start_column,
            end_line,
            end_column,
        }
    }

    /// What to show around a range: whole lines, or a window where those are too long.
    #[must_use]
    pub(crate) fn context(&self, range: &Range<usize>) -> Range<usize> {
        let last = range.end.saturating_sub(1).max(range.start);
        let first_line = self.line(range.start).saturating_sub(CONTEXT_LINES).max(1);
        // A text that ends with a line feed has no further line, though its last "line start" is the end of the text.
        let count = self.starts.len() - usize::from(self.starts.last() == Some(&self.text.len()));
        let last_line = (self.line(last) + CONTEXT_LINES).min(count.max(1));
        let whole = self.line_start(first_line)..self.line_end(last_line).max(range.end);
        if whole.len() <= CONTEXT_BYTES_MAX.max(range.len()) {
            return whole;
        }
        let start = self
            .text
            .floor_char_boundary(range.start.saturating_sub(WINDOW_BYTES))
            .max(whole.start);
        let end = self
            .text
            .ceil_char_boundary((range.end + WINDOW_BYTES).min(self.text.len()))
            .min(whole.end);
        start..end.max(range.end)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::string_slice, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn columns_count_utf16_units_from_one() {
        let text = "a\u{e9}\u{1f600}x\r\nsecond\nlast";
        let lines = Lines::new(text);
        for (span, expected) in [
            (0..1, (1, 1, 1, 2)),
            (1..3, (1, 2, 1, 3)),
            (3..7, (1, 3, 1, 5)),
            (7..8, (1, 5, 1, 6)),
            (4..5, (1, 3, 1, 5)),
            (10..16, (2, 1, 2, 7)),
            (17..21, (3, 1, 3, 5)),
            (10..18, (2, 1, 3, 2)),
            (21..21, (3, 4, 3, 5)),
            (900..901, (3, 4, 3, 5)),
        ] {
            let region = lines.region(&lines.clamp(&span));
            let got = (
                region.start_line,
                region.start_column,
                region.end_line,
                region.end_column,
            );
            assert_eq!(got, expected, "{span:?}");
        }
    }

    #[test]
    fn a_column_far_into_one_long_line_is_exact() {
        let text = "\u{1f600}".repeat(5000);
        let lines = Lines::new(&text);
        for at in [0_u32, 1, 255, 256, 257, 2047, 4999] {
            let region = lines.region(&lines.clamp(&(at * 4..at * 4 + 4)));
            assert_eq!(
                (region.start_column, region.end_column),
                (at * 2 + 1, at * 2 + 3),
                "{at}"
            );
        }
    }

    #[test]
    fn context_is_whole_lines_or_a_window() {
        let lines = Lines::new("1\n2\n3\n4\r\n5\n6\n7");
        let (four, one) = (lines.clamp(&(6..7)), lines.clamp(&(0..1)));
        assert_eq!(&lines.text()[lines.context(&four)], "2\n3\n4\r\n5\n6");
        assert_eq!(&lines.text()[lines.context(&one)], "1\n2\n3");
        let ended = Lines::new("1\n2\n");
        assert_eq!(&ended.text()[ended.context(&(2..3))], "1\n2");
        let long = "x".repeat(10_000);
        assert_eq!(Lines::new(&long).context(&(5000..5010)), 4760..5250);
        assert_eq!(Lines::new("").context(&(0..0)), 0..0);
    }

    proptest::proptest! {
        #[test]
        fn any_span_of_any_text_has_a_place(text in ".{0,60}", a in 0_u32..80, b in 0_u32..80) {
            let lines = Lines::new(&text);
            let range = lines.clamp(&(a..b));
            let context = lines.context(&range);
            assert!(context.start <= range.start && range.end <= context.end);
            assert!(text.get(range.clone()).is_some() && text.get(context).is_some());
            let region = lines.region(&range);
            assert!((region.start_line, region.start_column) <= (region.end_line, region.end_column));
        }
    }
}

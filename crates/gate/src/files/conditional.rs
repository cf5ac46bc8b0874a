//! Conditional requests and ranges of one file (RFC 9110 §13, §14). Pure.

use std::time::{Duration, SystemTime};

use crate::http1::elements;
use crate::http1::fields::Fields;

/// What the client asks for beside the file itself, as it was sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Asked {
    if_match: Option<Vec<u8>>,
    if_none_match: Option<Vec<u8>>,
    if_modified_since: Option<SystemTime>,
    if_unmodified_since: Option<SystemTime>,
    if_range: Option<Vec<u8>>,
    range: Option<Vec<u8>>,
}

fn joined(fields: &Fields, name: &'static str) -> Option<Vec<u8>> {
    let values: Vec<&[u8]> = fields.named(name).collect();
    (!values.is_empty()).then(|| values.join(&b", "[..]))
}

fn date(fields: &Fields, name: &'static str) -> Option<SystemTime> {
    let mut values = fields.named(name);
    let value = std::str::from_utf8(values.next()?).ok()?;
    httpdate::parse_http_date(value).ok()
}

impl Asked {
    pub(crate) fn of(fields: &Fields) -> Self {
        Self {
            if_match: joined(fields, "if-match"),
            if_none_match: joined(fields, "if-none-match"),
            if_modified_since: date(fields, "if-modified-since"),
            if_unmodified_since: date(fields, "if-unmodified-since"),
            if_range: joined(fields, "if-range"),
            range: joined(fields, "range"),
        }
    }
}

/// The file's state: its strong entity tag with quotes, its time to the second, its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Validators {
    pub(crate) tag: String,
    pub(crate) modified: SystemTime,
    pub(crate) length: u64,
}

impl Validators {
    pub(crate) fn new(length: u64, seconds: i64, nanoseconds: u32) -> Self {
        let seconds = u64::try_from(seconds).unwrap_or(0);
        Self {
            tag: format!("\"{length:x}-{seconds:x}-{nanoseconds:x}\""),
            modified: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds),
            length,
        }
    }

    /// True when `list` is `*` or names the tag; `weakly`: also as a weak one.
    fn is_among(&self, list: &[u8], weakly: bool) -> bool {
        list == b"*"
            || elements(list).any(|element| {
                let strong = element.strip_prefix(b"W/");
                match strong {
                    Some(rest) => weakly && rest == self.tag.as_bytes(),
                    None => element == self.tag.as_bytes(),
                }
            })
    }
}

/// What is sent of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// 200
    Whole,
    /// 206: the first byte, and how many.
    Range(u64, u64),
    /// 304
    Unmodified,
    /// 412
    Failed,
    /// 416
    Unsatisfiable,
}

/// Evaluates the preconditions in the order of RFC 9110 §13.2.2, then the range.
#[must_use]
pub(crate) fn judge(asked: &Asked, file: &Validators) -> Part {
    if let Some(list) = &asked.if_match {
        if !file.is_among(list, false) {
            return Part::Failed;
        }
    } else if asked
        .if_unmodified_since
        .is_some_and(|at| file.modified > at)
    {
        return Part::Failed;
    }
    if let Some(list) = &asked.if_none_match {
        if file.is_among(list, true) {
            return Part::Unmodified;
        }
    } else if asked
        .if_modified_since
        .is_some_and(|at| file.modified <= at)
    {
        return Part::Unmodified;
    }
    let Some(range) = &asked.range else {
        return Part::Whole;
    };
    let same = asked.if_range.as_ref().is_none_or(|validator| {
        let text = String::from_utf8_lossy(validator);
        httpdate::parse_http_date(&text).map_or_else(
            |_| validator == file.tag.as_bytes(),
            |at| at == file.modified,
        )
    });
    if same {
        one_range(range, file.length)
    } else {
        Part::Whole
    }
}

/// One range of bytes. Several, or what is no range, count as none (RFC 9110 §14.2).
fn one_range(written: &[u8], length: u64) -> Part {
    let text = std::str::from_utf8(written).unwrap_or_default();
    let Some((unit, spec)) = text.split_once('=') else {
        return Part::Whole;
    };
    let Some((first, last)) = spec.trim().split_once('-') else {
        return Part::Whole;
    };
    let number = |text: &str| {
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        // What is too large for us is beyond the end of every file.
        digits.then(|| text.parse::<u64>().unwrap_or(u64::MAX))
    };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Part::Whole;
    }
    match (number(first), number(last)) {
        (None, Some(0)) if first.is_empty() => Part::Unsatisfiable,
        (None, Some(_)) if first.is_empty() && length == 0 => Part::Unsatisfiable,
        (None, Some(count)) if first.is_empty() => {
            let count = count.min(length);
            Part::Range(length - count, count)
        }
        (Some(first), None) if last.is_empty() && first < length => {
            Part::Range(first, length - first)
        }
        (Some(first), Some(last)) if first <= last && first < length => {
            Part::Range(first, last.min(length - 1) - first + 1)
        }
        (Some(first), None) if last.is_empty() && first >= length => Part::Unsatisfiable,
        (Some(first), Some(last)) if first <= last => Part::Unsatisfiable,
        _ => Part::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http1::head::{HeadLimits, RequestHead};

    fn asked(fields: &str) -> Asked {
        let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
        let limits = HeadLimits {
            bytes: 4_096,
            fields: 16,
        };
        let head = RequestHead::parse(text.as_bytes(), limits).unwrap();
        Asked::of(&head.fields)
    }

    #[test]
    fn preconditions_and_ranges() {
        let file = Validators::new(100, 784_111_777, 5);
        let tag = file.tag.clone();
        let check = |fields: &str, expected: Part| {
            let fields = fields.replace("TAG", &tag);
            assert_eq!(judge(&asked(&fields), &file), expected, "{fields}");
        };
        let same = "Sun, 06 Nov 1994 08:49:37 GMT";
        let before = "Sun, 06 Nov 1994 08:49:36 GMT";
        check("", Part::Whole);
        check("If-None-Match: TAG\r\n", Part::Unmodified);
        check("If-None-Match: \"x\", W/TAG\r\n", Part::Unmodified);
        check(
            "If-None-Match: \"x\"\r\nIf-None-Match: TAG\r\n",
            Part::Unmodified,
        );
        check("If-None-Match: *\r\n", Part::Unmodified);
        check("If-None-Match: \"x\"\r\n", Part::Whole);
        check(&format!("If-Modified-Since: {same}\r\n"), Part::Unmodified);
        check(&format!("If-Modified-Since: {before}\r\n"), Part::Whole);
        check("If-Modified-Since: yesterday\r\n", Part::Whole);
        // The tag is the better witness.
        check(
            &format!("If-None-Match: \"x\"\r\nIf-Modified-Since: {same}\r\n"),
            Part::Whole,
        );
        check("If-Match: \"x\"\r\n", Part::Failed);
        check("If-Match: W/TAG\r\n", Part::Failed);
        check("If-Match: TAG\r\n", Part::Whole);
        check(&format!("If-Unmodified-Since: {before}\r\n"), Part::Failed);
        check(&format!("If-Unmodified-Since: {same}\r\n"), Part::Whole);
        check("Range: bytes=0-9\r\n", Part::Range(0, 10));
        check("Range: bytes=90-\r\n", Part::Range(90, 10));
        check("Range: bytes=90-1000\r\n", Part::Range(90, 10));
        check("Range: bytes=-10\r\n", Part::Range(90, 10));
        check("Range: bytes=-1000\r\n", Part::Range(0, 100));
        check("Range: bytes=-0\r\n", Part::Unsatisfiable);
        check("Range: bytes=100-\r\n", Part::Unsatisfiable);
        check("Range: bytes=100-200\r\n", Part::Unsatisfiable);
        check(
            "Range: bytes=99999999999999999999-\r\n",
            Part::Unsatisfiable,
        );
        check("Range: bytes=9-1\r\n", Part::Whole);
        check("Range: bytes=0-1,5-6\r\n", Part::Whole);
        check("Range: bytes=+1-2\r\n", Part::Whole);
        check("Range: lines=0-9\r\n", Part::Whole);
        check("Range: bytes=0-9\r\nIf-Range: TAG\r\n", Part::Range(0, 10));
        check("Range: bytes=0-9\r\nIf-Range: W/TAG\r\n", Part::Whole);
        check(
            &format!("Range: bytes=0-9\r\nIf-Range: {same}\r\n"),
            Part::Range(0, 10),
        );
        check(
            &format!("Range: bytes=0-9\r\nIf-Range: {before}\r\n"),
            Part::Whole,
        );
        check(
            "Range: bytes=0-9\r\nIf-None-Match: TAG\r\n",
            Part::Unmodified,
        );
        let empty = Validators::new(0, 0, 0);
        assert_eq!(
            judge(&asked("Range: bytes=0-\r\n"), &empty),
            Part::Unsatisfiable
        );
        assert_eq!(
            judge(&asked("Range: bytes=-5\r\n"), &empty),
            Part::Unsatisfiable
        );
    }
}

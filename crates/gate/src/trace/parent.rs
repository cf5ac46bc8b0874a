//! The `traceparent` field (W3C Trace Context §3.2.2): `version-trace-span-flags`.

use std::fmt;

use super::to_hex;

/// A `traceparent` that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parent {
    pub(crate) trace: [u8; 16],
    pub(crate) span: [u8; 8],
    pub(crate) sampled: bool,
}

impl Parent {
    /// Reads `version-trace-span-flags` (W3C Trace Context §3.2.2). Of later versions what we know is taken.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(value).ok()?;
        let mut parts = text.split('-');
        let version: [u8; 1] = hex(parts.next()?)?;
        let trace: [u8; 16] = hex(parts.next()?)?;
        let span: [u8; 8] = hex(parts.next()?)?;
        let [flags]: [u8; 1] = hex(parts.next()?)?;
        let more = parts.next().is_some();
        let good = version != [0xff] && !(version == [0] && more);
        (good && trace != [0; 16] && span != [0; 8]).then_some(Self {
            trace,
            span,
            sampled: flags & 1 == 1,
        })
    }
}

impl fmt::Display for Parent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        let (trace, span) = (to_hex(&self.trace), to_hex(&self.span));
        write!(formatter, "00-{trace}-{span}-{flags:02x}")
    }
}

/// Exactly N bytes in lower-case hexadecimal.
fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    if text.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        let [high, low] = pair else {
            return None;
        };
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_traceparent_is_understood_as_the_standard_says() {
        let parent = Parent::parse(GOOD.as_bytes()).unwrap();
        assert_eq!(to_hex(&parent.trace), "0af7651916cd43dd8448eb211c80319c");
        assert_eq!(
            (to_hex(&parent.span).as_str(), parent.sampled),
            ("b7ad6b7169203331", true)
        );
        let later = GOOD.replacen("00", "01", 1) + "-more";
        assert_eq!(Parent::parse(later.as_bytes()), Some(parent));
        for bad in [
            "",
            "00",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0\u{e4}",
        ] {
            assert_eq!(Parent::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}

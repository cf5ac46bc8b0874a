use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use toml::de::DeValue;

/// A type that a settings value can have.
pub trait Setting: Sized {
    /// With an article and an example: `a duration such as "5s"`.
    const EXPECTED: &'static str;
    /// A whole number, of which not each that can be written fits.
    const WHOLE: bool = false;

    /// Reads a value.
    ///
    /// # Errors
    /// Why it can't be that type, lower case.
    fn read(value: &DeValue<'_>) -> Result<Self, String>;
}

fn text<'v>(value: &'v DeValue<'_>) -> Result<&'v str, String> {
    value
        .as_str()
        .ok_or_else(|| format!("expected text, found {}", value.type_str()))
}

impl Setting for String {
    const EXPECTED: &'static str = "text in quotes";
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        text(value).map(str::to_owned)
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "a file name in quotes";
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        match text(value)? {
            "" => Err("a file name can't be empty".to_owned()),
            name => Ok(Self::from(name)),
        }
    }
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        value
            .as_bool()
            .ok_or_else(|| format!("expected true or false, found {}", value.type_str()))
    }
}

macro_rules! whole_numbers {
    ($($number:ty),*) => {$(
        impl Setting for $number {
            const EXPECTED: &'static str = "a whole number";
            const WHOLE: bool = true;
            fn read(value: &DeValue<'_>) -> Result<Self, String> {
                let integer = value
                    .as_integer()
                    .ok_or_else(|| format!("expected a whole number, found {}", value.type_str()))?;
                let digits = integer.as_str().replace('_', "");
                Self::from_str_radix(&digits, integer.radix())
                    .map_err(|_| match digits.strip_prefix('-') {
                        Some(_) => format!("{} is less than {}", integer.as_str(), Self::MIN),
                        None => format!("{} is more than {}", integer.as_str(), Self::MAX),
                    })
            }
        }
    )*};
}
whole_numbers!(u8, u16, u32, u64, usize);

impl Setting for f64 {
    const EXPECTED: &'static str = "a number such as 0.5";
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let digits = match value {
            DeValue::Float(float) => float.as_str(),
            DeValue::Integer(integer) => integer.as_str(),
            other => return Err(format!("expected a number, found {}", other.type_str())),
        };
        digits
            .replace('_', "")
            .parse()
            .map_err(|_| format!("{digits} is no number"))
    }
}

impl Setting for Duration {
    const EXPECTED: &'static str = r#"a duration such as "250ms", "5s", "10m", "1h" or "30d""#;
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        parse_duration(text(value)?)
    }
}

/// Parses `250ms`, `5s`, `10m`, `1h`, `30d`, or several of them in a row (`1h30m`).
///
/// # Errors
/// What is wrong, lower case.
pub fn parse_duration(written: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = written.trim();
    if rest.is_empty() {
        return Err("a duration can't be empty".to_owned());
    }
    while !rest.is_empty() {
        let (number, unit, after) =
            number_and_unit(rest).ok_or_else(|| format!("\"{written}\" is no duration"))?;
        let unit = match unit {
            "ms" => Duration::from_millis(1),
            "s" => Duration::from_secs(1),
            "m" | "min" => Duration::from_secs(60),
            "h" => Duration::from_secs(3_600),
            "d" => Duration::from_secs(86_400),
            "" => return Err(format!("\"{written}\" has no unit")),
            other => return Err(format!("\"{other}\" is no unit of time")),
        };
        total = u32::try_from(number)
            .ok()
            .and_then(|number| unit.checked_mul(number))
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("\"{written}\" is too long"))?;
        rest = after;
    }
    Ok(total)
}

/// A duration in the largest unit that leaves no rest: `90s`, `1h`.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let millis = duration.as_millis();
    for (unit, length) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ] {
        if millis >= length && millis.is_multiple_of(length) {
            return format!("{}{unit}", millis / length);
        }
    }
    format!("{millis}ms")
}

fn number_and_unit(written: &str) -> Option<(u64, &str, &str)> {
    let digits = written
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(written.len());
    let (number, rest) = written.split_at_checked(digits)?;
    let letters = rest
        .find(|c: char| !c.is_ascii_alphabetic())
        .unwrap_or(rest.len());
    let (unit, after) = rest.split_at_checked(letters)?;
    Some((number.parse().ok()?, unit, after))
}

/// An amount of bytes: `64MiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// `count` MiB.
    #[must_use]
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (unit, shift) in [("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)] {
            if self.0 >= 1 << shift && self.0.is_multiple_of(1 << shift) {
                return write!(f, "{}{unit}", self.0 >> shift);
            }
        }
        write!(f, "{}B", self.0)
    }
}

impl FromStr for Size {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (number, unit, rest) = number_and_unit(written.trim())
            .filter(|(_, _, rest)| rest.is_empty())
            .ok_or_else(|| format!("\"{written}\" is no size"))?;
        debug_assert!(rest.is_empty());
        let factor: u64 = match unit {
            "B" => 1,
            "KiB" => 1 << 10,
            "MiB" => 1 << 20,
            "GiB" => 1 << 30,
            "TiB" => 1 << 40,
            "KB" | "kB" => 1_000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "" => return Err(format!("\"{written}\" has no unit")),
            other => return Err(format!("\"{other}\" is no unit of size")),
        };
        number
            .checked_mul(factor)
            .filter(|bytes| i64::try_from(*bytes).is_ok())
            .map(Self)
            .ok_or_else(|| format!("\"{written}\" is too large"))
    }
}

impl Setting for Size {
    const EXPECTED: &'static str = r#"a size such as "64KiB", "16MiB" or "4GiB""#;
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        text(value)?.parse()
    }
}

/// Bytes per second: `"240B/s"`; `"off"` is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate(pub Option<u64>);

impl Setting for Rate {
    const EXPECTED: &'static str = r#"a rate such as "240B/s" or "16KiB/s", or "off""#;
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        let written = text(value)?;
        if written == "off" {
            return Ok(Self(None));
        }
        let size: Size = written
            .strip_suffix("/s")
            .ok_or_else(|| format!("\"{written}\" is no rate"))?
            .parse()?;
        Ok(Self(Some(size.bytes())))
    }
}

/// `host:port`, where host is an address or a name; IPv6 stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    pub port: u16,
}

impl HostPort {
    /// The address, when the host is a literal one.
    #[must_use]
    pub fn socket_addr(&self) -> Option<SocketAddr> {
        self.host
            .parse::<IpAddr>()
            .ok()
            .map(|address| SocketAddr::new(address, self.port))
    }

    /// True for `localhost` and literal loopback addresses.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost"
            || self
                .host
                .parse::<IpAddr>()
                .is_ok_and(|address| address.is_loopback())
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self {
            host: address.ip().to_string(),
            port: address.port(),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (host, port) = written
            .rsplit_once(':')
            .ok_or_else(|| format!("\"{written}\" has no port"))?;
        let port = port
            .parse()
            .map_err(|_| format!("\"{port}\" is no port (0 to 65535)"))?;
        let bare = match host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
        {
            Some(inner) if inner.parse::<std::net::Ipv6Addr>().is_ok() => inner,
            Some(inner) => return Err(format!("\"{inner}\" is no IPv6 address")),
            None if host.contains(':') => {
                return Err("an IPv6 address stands in brackets".to_owned());
            }
            None => host,
        };
        let named = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if bare.is_empty() || !(bare.contains(':') || bare.chars().all(named)) {
            return Err(format!("\"{host}\" is no host"));
        }
        Ok(Self {
            host: bare.to_owned(),
            port,
        })
    }
}

impl Setting for HostPort {
    const EXPECTED: &'static str = r#"an address such as "127.0.0.1:8080" or "[::1]:8080""#;
    fn read(value: &DeValue<'_>) -> Result<Self, String> {
        text(value)?.parse()
    }
}

/// A secret: shown by no `Debug`, no message, no log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    #[must_use]
    pub fn new(secret: &str) -> Self {
        Self(secret.to_owned())
    }

    /// The secret itself; name it only where it is used.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let check = |written: &str, expected: Result<u64, &str>| match (
            parse_duration(written),
            expected,
        ) {
            (Ok(read), Ok(millis)) => assert_eq!(read, Duration::from_millis(millis), "{written}"),
            (Err(why), Err(part)) => assert!(why.contains(part), "{written}: {why}"),
            (read, _) => panic!("{written}: {read:?}"),
        };
        check("250ms", Ok(250));
        check("5s", Ok(5_000));
        check("1h30m", Ok(5_400_000));
        check("30d", Ok(2_592_000_000));
        check("5", Err("no unit"));
        check("5 s", Err("no unit"));
        check("", Err("empty"));
        check("s", Err("no duration"));
        check("5w", Err("no unit of time"));
        check("99999999999d", Err("too long"));
        assert_eq!(format_duration(Duration::from_secs(5_400)), "90m");
        assert_eq!(format_duration(Duration::from_millis(1_500)), "1500ms");
    }

    #[test]
    fn sizes() {
        assert_eq!("64MiB".parse::<Size>().unwrap(), Size::mib(64));
        assert_eq!("10MB".parse::<Size>().unwrap(), Size(10_000_000));
        assert!("64".parse::<Size>().unwrap_err().contains("no unit"));
        assert!(
            "99999999TiB"
                .parse::<Size>()
                .unwrap_err()
                .contains("too large")
        );
        assert_eq!(Size::mib(4096).to_string(), "4GiB");
        assert_eq!(Size(1_500).to_string(), "1500B");
    }

    #[test]
    fn addresses() {
        for good in [
            "127.0.0.1:8080",
            "[::1]:0",
            "model.internal:80",
            "localhost:1",
        ] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in [
            "127.0.0.1",
            "::1:80",
            ":80",
            "a b:80",
            "[x]:80",
            "h:70000",
            "h:",
        ] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_not_shown() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "Secret(…)");
    }
}

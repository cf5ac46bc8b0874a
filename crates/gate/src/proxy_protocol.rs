//! The PROXY header: who stands behind the peer of a connection, said in front of its first byte
//! (HAProxy's "The PROXY protocol, versions 1 & 2"). Pure: bytes in, addresses out, and back.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Begins a header of version 2 (§2.2).
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, with its line end (§2.1).
const V1_MAX: usize = 107;
/// Longest header taken: what proxies say about TLS and their network fits many times.
pub const HEADER_MAX: usize = 4 * 1024;
/// Version 2 up to its addresses.
const V2_FIXED: usize = 16;

/// A version of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// Why a connection has no header that could be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadHeader {
    /// It begins with something else.
    #[error("the connection does not begin with a PROXY header")]
    Missing,
    /// Not of the version that the listener takes.
    #[error("the PROXY header is of another version")]
    OtherVersion,
    /// It breaks the rules.
    #[error("the PROXY header is malformed")]
    Malformed,
    /// Longer than [`HEADER_MAX`], or than its version allows.
    #[error("the PROXY header is too long")]
    TooLong,
}

/// A whole header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; the first byte of the client follows.
    pub length: usize,
    /// Its version.
    pub version: Version,
    /// Who stands behind the peer. `None` when the peer speaks for itself (`LOCAL`), or for one
    /// whose address is none that could be used (`UNKNOWN`, a Unix socket).
    pub source: Option<SocketAddr>,
}

/// Reads a header at the beginning of `bytes`. `None` while it is not whole.
///
/// # Errors
/// [`BadHeader`]: no byte that could follow mends it.
pub fn read(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let begins = |with: &[u8]| {
        let count = bytes.len().min(with.len());
        bytes.get(..count) == with.get(..count)
    };
    if begins(&SIGNATURE) {
        read_v2(bytes)
    } else if begins(b"PROXY ") {
        read_v1(bytes)
    } else {
        Err(BadHeader::Missing)
    }
}

fn read_v1(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let window = bytes.get(..V1_MAX).unwrap_or(bytes);
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() >= V1_MAX {
            Err(BadHeader::TooLong)
        } else {
            Ok(None)
        };
    };
    let line = window.get(..end).unwrap_or_default();
    let line = std::str::from_utf8(line).map_err(|_| BadHeader::Malformed)?;
    let mut words = line.split(' ').skip(1);
    let source = match words.next() {
        // What follows is to be ignored.
        Some("UNKNOWN") => None,
        Some("TCP4") => Some(read_words::<Ipv4Addr>(words)?),
        Some("TCP6") => Some(read_words::<Ipv6Addr>(words)?),
        _ => return Err(BadHeader::Malformed),
    };
    Ok(Some(Header {
        length: end + 2,
        version: Version::V1,
        source,
    }))
}

/// Source, destination and both ports; the source is handed back.
fn read_words<'a, Ip: std::str::FromStr + Into<IpAddr>>(
    mut words: impl Iterator<Item = &'a str>,
) -> Result<SocketAddr, BadHeader> {
    let mut next = || words.next().ok_or(BadHeader::Malformed);
    let (source, destination, from, to) = (next()?, next()?, next()?, next()?);
    let address = |word: &str| word.parse::<Ip>().map_err(|_| BadHeader::Malformed);
    let source: IpAddr = address(source)?.into();
    drop(address(destination)?);
    let (from, _) = (port(from)?, port(to)?);
    if words.next().is_some() {
        return Err(BadHeader::Malformed);
    }
    Ok(SocketAddr::new(source.to_canonical(), from))
}

/// Digits alone, without a leading zero (§2.1).
fn port(word: &str) -> Result<u16, BadHeader> {
    let good =
        word.bytes().all(|byte| byte.is_ascii_digit()) && (word == "0" || !word.starts_with('0'));
    word.parse()
        .ok()
        .filter(|_| good)
        .ok_or(BadHeader::Malformed)
}

fn read_v2(bytes: &[u8]) -> Result<Option<Header>, BadHeader> {
    let Some(fixed) = bytes.first_chunk::<V2_FIXED>() else {
        return Ok(None);
    };
    let [.., command, family, high, low] = *fixed;
    let length = V2_FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_MAX {
        return Err(BadHeader::TooLong);
    }
    let local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(BadHeader::Malformed),
    };
    let Some(rest) = bytes.get(V2_FIXED..length) else {
        return Ok(None);
    };
    // Behind the addresses stand TLVs, which say nothing that is used here.
    let (inet, transport) = (family >> 4, family & 0xf);
    if transport > 2 {
        return Err(BadHeader::Malformed);
    }
    let source = match inet {
        _ if local => None,
        0 => None,
        1 => Some(read_v4(rest).ok_or(BadHeader::Malformed)?),
        2 => Some(read_v6(rest).ok_or(BadHeader::Malformed)?),
        // Two paths of 108 bytes.
        3 if rest.len() >= 216 => None,
        _ => return Err(BadHeader::Malformed),
    };
    Ok(Some(Header {
        length,
        version: Version::V2,
        source,
    }))
}

fn read_v4(rest: &[u8]) -> Option<SocketAddr> {
    let [a, b, c, d, _, _, _, _, high, low, _, _] = *rest.first_chunk::<12>()?;
    Some(SocketAddr::new(
        Ipv4Addr::new(a, b, c, d).into(),
        u16::from_be_bytes([high, low]),
    ))
}

fn read_v6(rest: &[u8]) -> Option<SocketAddr> {
    let addresses = rest.first_chunk::<36>()?;
    let source = Ipv6Addr::from(*addresses.first_chunk::<16>()?);
    let [high, low, _, _] = *addresses.last_chunk::<4>()?;
    Some(SocketAddr::new(
        IpAddr::from(source).to_canonical(),
        u16::from_be_bytes([high, low]),
    ))
}

/// A header that says that a connection comes from `source` and was made to `destination`.
#[must_use]
pub fn write(version: Version, source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let (from, to) = same_family(source.ip(), destination.ip());
    let ports = [source.port(), destination.port()];
    match version {
        Version::V1 => {
            let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
            let [sport, dport] = ports;
            format!("PROXY {family} {from} {to} {sport} {dport}\r\n").into_bytes()
        }
        Version::V2 => {
            let mut bytes = SIGNATURE.to_vec();
            let (family, length) = if from.is_ipv4() {
                (0x11, 12)
            } else {
                (0x21, 36)
            };
            bytes.extend_from_slice(&[0x21, family, 0, length]);
            for address in [from, to] {
                match address {
                    IpAddr::V4(address) => bytes.extend_from_slice(&address.octets()),
                    IpAddr::V6(address) => bytes.extend_from_slice(&address.octets()),
                }
            }
            for port in ports {
                bytes.extend_from_slice(&port.to_be_bytes());
            }
            bytes
        }
    }
}

/// A header for a connection that the gate makes for itself: it names no client.
#[must_use]
pub fn write_own(version: Version) -> Vec<u8> {
    match version {
        Version::V1 => b"PROXY UNKNOWN\r\n".to_vec(),
        Version::V2 => [SIGNATURE.as_slice(), &[0x20, 0, 0, 0]].concat(),
    }
}

/// Both as IPv4, or both as IPv6: a header has one family.
fn same_family(one: IpAddr, other: IpAddr) -> (IpAddr, IpAddr) {
    let (one, other) = (one.to_canonical(), other.to_canonical());
    let six = |address| match address {
        IpAddr::V4(address) => IpAddr::V6(Ipv4Addr::to_ipv6_mapped(&address)),
        IpAddr::V6(_) => address,
    };
    if one.is_ipv4() == other.is_ipv4() {
        (one, other)
    } else {
        (six(one), six(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = SIGNATURE.to_vec();
        bytes.extend([command, family]);
        bytes.extend(u16::try_from(rest.len()).unwrap().to_be_bytes());
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn headers_are_read_or_refused() {
        let check = |bytes: &[u8], expected: Result<Option<&str>, BadHeader>| {
            let shown = String::from_utf8_lossy(bytes).into_owned();
            let expected = expected.map(|source| source.map(|source| source.parse().unwrap()));
            let got = read(bytes).map(|header| header.expect("whole").source);
            assert_eq!(got, expected, "{shown:?}");
        };
        let bad = Err(BadHeader::Malformed);
        check(
            b"PROXY TCP4 1.2.3.4 5.6.7.8 100 443\r\nGET",
            Ok(Some("1.2.3.4:100")),
        );
        check(
            b"PROXY TCP6 2001:db8::1 ::1 1 2\r\n",
            Ok(Some("[2001:db8::1]:1")),
        );
        check(
            b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n",
            Ok(Some("1.2.3.4:1")),
        );
        check(b"PROXY UNKNOWN\r\n", Ok(None));
        check(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n", Ok(None));
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 100\r\n", bad);
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 100 443 1\r\n", bad);
        check(b"PROXY TCP4 1.2.3.4  5.6.7.8 100 443\r\n", bad);
        check(b"PROXY TCP4 ::1 ::1 100 443\r\n", bad);
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 0100 443\r\n", bad);
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 +100 443\r\n", bad);
        check(b"PROXY TCP4 1.2.3.4 5.6.7.8 100 65536\r\n", bad);
        check(b"PROXY TCP5 1.2.3.4 5.6.7.8 100 443\r\n", bad);
        check(b"PROXY \r\n", bad);
        check(b"PROXY \xff\r\n", bad);
        check(
            &[b"PROXY UNKNOWN ", [b'x'; 100].as_slice()].concat(),
            Err(BadHeader::TooLong),
        );
        check(b"GET / HTTP/1.1\r\n", Err(BadHeader::Missing));
        check(b"\x16\x03\x01", Err(BadHeader::Missing));
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187];
        check(&v2(0x21, 0x11, &four), Ok(Some("1.2.3.4:80")));
        let with_tlv = [four.as_slice(), &[4, 0, 1, 7]].concat();
        check(&v2(0x21, 0x11, &with_tlv), Ok(Some("1.2.3.4:80")));
        check(&v2(0x20, 0x11, &four), Ok(None));
        check(&v2(0x20, 0, &[]), Ok(None));
        check(&v2(0x21, 0, &[9; 7]), Ok(None));
        check(&v2(0x21, 0x31, &[0; 216]), Ok(None));
        check(&v2(0x21, 0x31, &[0; 215]), bad);
        check(&v2(0x21, 0x11, &four[..11]), bad);
        check(&v2(0x21, 0x21, &[0; 35]), bad);
        check(&v2(0x21, 0x41, &[0; 40]), bad);
        check(&v2(0x21, 0x13, &four), bad);
        check(&v2(0x22, 0x11, &four), bad);
        check(&v2(0x11, 0x11, &four), bad);
        check(&v2(0x21, 0x11, &[0; 5_000]), Err(BadHeader::TooLong));
    }

    #[test]
    fn who_speaks_for_itself_names_nobody() {
        for version in [Version::V1, Version::V2] {
            let bytes = write_own(version);
            let header = read(&bytes).unwrap().unwrap();
            assert_eq!((header.length, header.source), (bytes.len(), None));
        }
    }

    #[test]
    fn a_header_in_pieces_is_awaited() {
        for version in [Version::V1, Version::V2] {
            for (from, to) in [
                ("192.0.2.1:1234", "198.51.100.1:443"),
                ("[2001:db8::1]:65535", "[2001:db8::2]:0"),
                ("192.0.2.1:1", "[2001:db8::2]:2"),
            ] {
                let (from, to): (SocketAddr, SocketAddr) =
                    (from.parse().unwrap(), to.parse().unwrap());
                let mut bytes = write(version, from, to);
                for end in 0..bytes.len() {
                    assert_eq!(read(&bytes[..end]), Ok(None), "{version:?} {end}");
                }
                let length = bytes.len();
                bytes.extend_from_slice(b"GET / HTTP/1.1\r\n\r\n");
                let expected = Header {
                    length,
                    version,
                    source: Some(from),
                };
                assert_eq!(read(&bytes), Ok(Some(expected)));
            }
        }
    }
}

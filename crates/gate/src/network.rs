//! Networks: whom to believe, where backends may be.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use munjigi_foundation::settings::Setting;

/// An address with a prefix length: `10.0.0.0/8`, `::1`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

impl Network {
    /// True when `address` lies inside. An IPv4-mapped IPv6 address is judged as IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(self.prefix))
                    .unwrap_or(0);
                (u32::from(network) ^ u32::from(address)) & mask == 0
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(self.prefix))
                    .unwrap_or(0);
                (u128::from(network) ^ u128::from(address)) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(written: &str) -> Result<Self, String> {
        let (address, prefix) = match written.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (written, None),
        };
        let address: IpAddr = address
            .parse()
            .map_err(|_| format!("\"{address}\" is no address"))?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => longest,
            Some(digits) => digits
                .parse()
                .ok()
                .filter(|prefix| *prefix <= longest)
                .ok_or_else(|| format!("\"/{digits}\" is no prefix length (0 to {longest})"))?,
        };
        Ok(Self { address, prefix })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.address, self.prefix)
    }
}

impl Setting for Network {
    const EXPECTED: &'static str = r#"a network such as "10.0.0.0/8" or "::1""#;

    fn read(value: &toml::de::DeValue<'_>) -> Result<Self, String> {
        String::read(value)?.parse()
    }
}

/// Why nothing discovered may live at this address, whatever `networks` says: link-local
/// addresses reach only this machine's link, where clouds keep their metadata services.
#[must_use]
pub(crate) fn never_a_backend(address: IpAddr) -> Option<&'static str> {
    match address.to_canonical() {
        IpAddr::V4(v4) if v4.is_link_local() => Some("a link-local address"),
        IpAddr::V4(v4) if v4.is_unspecified() || v4.octets().first() == Some(&0) => {
            Some("no address of a host")
        }
        IpAddr::V4(v4) if v4.is_multicast() || v4.is_broadcast() => Some("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => Some("a multicast address"),
        IpAddr::V4(v4) if v4 == Ipv4Addr::new(100, 100, 100, 200) => {
            Some("a cloud's metadata service")
        }
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) if (v6.segments().first().unwrap_or(&0) & 0xffc0) == 0xfe80 => {
            Some("a link-local address")
        }
        IpAddr::V6(v6) if v6.is_unspecified() => Some("no address of a host"),
        IpAddr::V6(v6) if v6.is_multicast() => Some("a multicast address"),
        IpAddr::V6(v6) if v6 == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) => {
            Some("a cloud's metadata service")
        }
        IpAddr::V6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn membership() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().unwrap();
            let inside = network.contains(address.parse().unwrap());
            assert_eq!(inside, expected, "{address} in {network}");
        };
        check("10.0.0.0/8", "10.255.0.1", true);
        check("10.0.0.0/8", "11.0.0.1", false);
        check("0.0.0.0/0", "1.2.3.4", true);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("10.0.0.0/8", "::ffff:10.1.1.1", true);
        check("::/0", "2001:db8::1", true);
        check("::/0", "1.2.3.4", false);
        check("2001:db8::/33", "2001:db8:8000::1", false);
        check("2001:db8::/33", "2001:db8:7fff::1", true);
        for bad in [
            "10.0.0.0/33",
            "10.0.0",
            "::/129",
            "x/8",
            "10.0.0.0/",
            "10.0.0.0/-1",
        ] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_never_a_backend() {
        for refused in [
            "169.254.169.254",
            "169.254.1.1",
            "fe80::1",
            "febf::1",
            "fd00:ec2::254",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "255.255.255.255",
            "ff02::1",
            "::ffff:169.254.169.254",
            "100.100.100.200",
        ] {
            assert!(
                never_a_backend(refused.parse().unwrap()).is_some(),
                "{refused}"
            );
        }
        for allowed in ["10.0.0.1", "127.0.0.1", "::1", "2001:db8::1", "fec0::1"] {
            assert!(
                never_a_backend(allowed.parse().unwrap()).is_none(),
                "{allowed}"
            );
        }
    }
}

//! Any bytes as a compiled rule set, and a good one with bytes changed: an error or verdicts, no panic.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use munjigi_ipfilter::{RuleSet, seal};

/// With single blocks, lists, nodes below the root, rules that decide nothing.
static GOOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut text = String::from("order allow,deny\ndefault true\nallow from 10.0.0.0/8\n");
    for number in 0..64_u32 {
        let v4 = Ipv4Addr::from(0x0a00_0000 + number * number * 7);
        text.push_str(&format!(
            "deny from {v4}\ndeny from {number}.{number}.0.0/16\ndeny from 2001:db8:{:x}::/48\ndeny from 2001:db8::{number:x}\n",
            number * 3
        ));
    }
    let rules = RuleSet::parse(&text).unwrap_or_else(|problems| panic!("{problems:?}"));
    rules.as_bytes().to_vec()
});

fuzz_target!(|bytes: &[u8]| {
    ask(bytes);
    let mut changed = GOOD.clone();
    for change in bytes.chunks_exact(3).take(16) {
        let place = usize::from(u16::from_le_bytes([change[0], change[1]]));
        if let Some(byte) = changed.get_mut(32 + place) {
            *byte = change[2];
        }
    }
    seal(&mut changed);
    ask(&changed);
});

fn ask(bytes: &[u8]) {
    let Ok(rules) = RuleSet::from_bytes(bytes) else {
        return;
    };
    for number in 0..=255_u32 {
        let v4 = IpAddr::V4(Ipv4Addr::from(number.wrapping_mul(0x0101_0101)));
        let near = IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number * number * 7));
        let v6 = IpAddr::V6(Ipv6Addr::from(u128::from(number) << 120));
        let close = IpAddr::V6(Ipv6Addr::from(0x2001_0db8 << 96 | u128::from(number)));
        for address in [v4, near, v6, close] {
            assert_eq!(rules.explain(address).verdict, rules.verdict(address));
        }
    }
    let _problems = rules.lint();
}

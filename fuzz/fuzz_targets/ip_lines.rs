//! Any text as rules of the line format: what is accepted can be opened again and says the same.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use munjigi_ipfilter::RuleSet;

fuzz_target!(|text: &str| {
    let Ok(rules) = RuleSet::parse(text) else {
        return;
    };
    let again = RuleSet::from_bytes(rules.as_bytes()).expect("what we compile can be opened");
    for number in 0..=255_u32 {
        let v4 = IpAddr::V4(Ipv4Addr::from(number.wrapping_mul(0x0101_0101)));
        let v6 = IpAddr::V6(Ipv6Addr::from(
            u128::from(number) << 120 | u128::from(number),
        ));
        assert_eq!(rules.verdict(v4), again.verdict(v4));
        assert_eq!(rules.verdict(v6), again.verdict(v6));
    }
    assert_eq!(rules.lint(), again.lint());
});

//! Any bytes as a compiled rule set, and a good one with bytes changed: an error or verdicts, no panic.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use munjigi_ipfilter::RuleSet;

fuzz_target!(|bytes: &[u8]| {
    let Ok(rules) = RuleSet::from_bytes(bytes) else {
        return;
    };
    for number in 0..=255_u32 {
        let v4 = IpAddr::V4(Ipv4Addr::from(number.wrapping_mul(0x0101_0101)));
        let v6 = IpAddr::V6(Ipv6Addr::from(u128::from(number) << 120));
        let _verdicts = (rules.verdict(v4), rules.verdict(v6));
    }
    let _problems = rules.lint();
});

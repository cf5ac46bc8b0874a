//! What is compared: each answers the number of the most specific rule that matches, 0 for none.

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use ip_network_table_deps_treebitmap::IpLookupTable;
use ipnet::{Ipv4Net, Ipv6Net};
use munjigi_ipfilter::RuleSet;
use prefix_trie::PrefixMap;

use crate::data::{Addresses, Family, Rule, address};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Munjigi,
    Treebitmap,
    PrefixTrie,
    Nginx,
    Linear,
}

impl Kind {
    pub const ALL: &[Self] = &[
        Self::Munjigi,
        Self::Treebitmap,
        Self::PrefixTrie,
        Self::Nginx,
        Self::Linear,
    ];

    /// A linear scan of millions would take hours and say nothing new; nginx's tree has a node for each bit, which
    /// for millions of IPv6 networks is more memory than machines have.
    pub fn can(self, family: Family, rules: usize) -> bool {
        match self {
            Self::Linear => rules <= 100_000,
            Self::Nginx => rules <= 1_000_000 || !family.is_v6(),
            _ => true,
        }
    }
}

/// What a structure is built from: text for ours, whose time to build counts the reading too.
pub enum Source {
    Text(String),
    Rules(Vec<Rule>),
}

pub fn prepare(kind: Kind, family: Family, rules: &[Rule]) -> Source {
    if kind != Kind::Munjigi {
        return Source::Rules(rules.to_vec());
    }
    let mut text = String::from("default true\n");
    for rule in rules {
        let base = address(family.is_v6(), rule.base);
        text.push_str(&format!("deny from {base}/{}\n", rule.prefix));
    }
    Source::Text(text)
}

pub trait Engine {
    fn name(&self) -> &'static str;
    /// Bytes that it holds, where it says so; those of mapped memory no allocator sees.
    fn bytes(&self) -> Option<usize>;
    /// Asks about a part of the addresses, none of which waits for another.
    fn free(&self, addresses: &Addresses, part: Range<usize>) -> u64;
    /// The same, each waiting for the one before.
    fn chain(&self, addresses: &Addresses, part: Range<usize>) -> u64;

    /// How many addresses a round takes.
    fn most(&self, _rules: usize, addresses: usize) -> usize {
        addresses
    }
}

struct Of<F> {
    name: &'static str,
    bytes: Option<usize>,
    find: F,
}

impl<F: Fn(IpAddr) -> u64> Engine for Of<F> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn bytes(&self) -> Option<usize> {
        self.bytes
    }

    fn free(&self, addresses: &Addresses, part: Range<usize>) -> u64 {
        match addresses {
            Addresses::V4(list) => free(&list[part], |key| (self.find)(Ipv4Addr::from(key).into())),
            Addresses::V6(list) => free(&list[part], |key| (self.find)(Ipv6Addr::from(key).into())),
        }
    }

    fn chain(&self, addresses: &Addresses, part: Range<usize>) -> u64 {
        match addresses {
            Addresses::V4(list) => chain(&list[part], |key| (self.find)(Ipv4Addr::from(key).into())),
            Addresses::V6(list) => chain(&list[part], |key| (self.find)(Ipv6Addr::from(key).into())),
        }
    }

    fn most(&self, rules: usize, addresses: usize) -> usize {
        if self.name == "linear scan" {
            (200_000_000 / rules.max(1)).clamp(1_000, addresses)
        } else {
            addresses
        }
    }
}

fn free<K: Copy>(keys: &[K], find: impl Fn(K) -> u64) -> u64 {
    keys.iter().fold(0, |sum, key| sum.wrapping_add(find(*key)))
}

fn chain<K: Copy>(keys: &[K], find: impl Fn(K) -> u64) -> u64 {
    // Zero, which the compiler does not know: the next address hangs on the last answer.
    let mask = black_box(0_usize);
    let mut last = 0_u64;
    for place in 0..keys.len() {
        // Hidden from the compiler, or it might foresee the answer by a branch.
        last = black_box(find(keys[place + (last as usize & mask)]));
    }
    last
}

pub fn build(kind: Kind, family: Family, source: &Source) -> Option<Box<dyn Engine>> {
    match (kind, source) {
        (Kind::Munjigi, Source::Text(text)) => Some(munjigi(text)),
        (Kind::Treebitmap, Source::Rules(rules)) => Some(treebitmap(family, rules)),
        (Kind::PrefixTrie, Source::Rules(rules)) => Some(prefix_trie(family, rules)),
        (Kind::Nginx, Source::Rules(rules)) => nginx(family, rules),
        (Kind::Linear, Source::Rules(rules)) => Some(linear(rules)),
        _ => None,
    }
}

fn munjigi(text: &str) -> Box<dyn Engine> {
    let rules = RuleSet::parse(text).expect("the rules are right");
    Box::new(Of {
        name: "munjigi",
        bytes: Some(rules.as_bytes().len()),
        find: move |address| {
            let verdict = rules.verdict(address);
            u64::from(verdict.allow) + verdict.rule.map_or(0, |rule| u64::from(rule.line))
        },
    })
}

fn treebitmap(family: Family, rules: &[Rule]) -> Box<dyn Engine> {
    let (mut v4, mut v6) = (IpLookupTable::new(), IpLookupTable::new());
    for (number, rule) in (1_u32..).zip(rules) {
        if family.is_v6() {
            v6.insert(Ipv6Addr::from(rule.base), rule.prefix, number);
        } else {
            v4.insert(Ipv4Addr::from(rule.base as u32), rule.prefix, number);
        }
    }
    Box::new(Of {
        name: "treebitmap",
        bytes: None,
        find: move |address| match address {
            IpAddr::V4(v4_address) => v4.longest_match(v4_address).map_or(0, |found| u64::from(*found.2)),
            IpAddr::V6(v6_address) => v6.longest_match(v6_address).map_or(0, |found| u64::from(*found.2)),
        },
    })
}

fn prefix_trie(family: Family, rules: &[Rule]) -> Box<dyn Engine> {
    let (mut v4, mut v6) = (PrefixMap::<Ipv4Net, u32>::new(), PrefixMap::<Ipv6Net, u32>::new());
    for (number, rule) in (1_u32..).zip(rules) {
        if family.is_v6() {
            let net = Ipv6Net::new(rule.base.into(), rule.prefix as u8).expect("a prefix");
            v6.insert(net, number);
        } else {
            let net = Ipv4Net::new((rule.base as u32).into(), rule.prefix as u8).expect("a prefix");
            v4.insert(net, number);
        }
    }
    Box::new(Of {
        name: "prefix-trie",
        bytes: None,
        find: move |address| match address {
            IpAddr::V4(address) => v4.get_lpm(&address.into()).map_or(0, |found| u64::from(*found.1)),
            IpAddr::V6(address) => v6.get_lpm(&address.into()).map_or(0, |found| u64::from(*found.1)),
        },
    })
}

fn linear(rules: &[Rule]) -> Box<dyn Engine> {
    let ranges: Vec<(bool, u128, u128)> = rules
        .iter()
        .map(|rule| (rule.v6, rule.base, rule.base | rule.host_bits()))
        .collect();
    Box::new(Of {
        name: "linear scan",
        bytes: None,
        find: move |address| {
            let (v6, key) = match address {
                IpAddr::V4(address) => (false, u128::from(u32::from(address))),
                IpAddr::V6(address) => (true, u128::from(address)),
            };
            ranges
                .iter()
                .position(|(other, first, last)| *other == v6 && *first <= key && key <= *last)
                .map_or(0, |place| place as u64 + 1)
        },
    })
}

#[cfg(not(nginx))]
fn nginx(_family: Family, _rules: &[Rule]) -> Option<Box<dyn Engine>> {
    None
}

/// The tree that nginx's `geo` asks, compiled from nginx's own file.
#[cfg(nginx)]
fn nginx(family: Family, rules: &[Rule]) -> Option<Box<dyn Engine>> {
    use std::ffi::{c_int, c_void};
    unsafe extern "C" {
        fn nginx_tree() -> *mut c_void;
        fn nginx_insert4(tree: *mut c_void, key: u32, mask: u32, value: usize) -> c_int;
        fn nginx_find4(tree: *mut c_void, key: u32) -> usize;
        fn nginx_insert6(tree: *mut c_void, key: *mut u8, mask: *mut u8, value: usize) -> c_int;
        fn nginx_find6(tree: *mut c_void, key: *mut u8) -> usize;
    }
    // Memory of the tree is never given back, as in nginx until a reload.
    // SAFETY: the tree is made here and used by this thread alone; keys and masks have 16 bytes.
    let tree = unsafe { nginx_tree() };
    for (number, rule) in (1_usize..).zip(rules) {
        if family.is_v6() {
            let (mut key, mut mask) = (rule.base.to_be_bytes(), (!rule.host_bits()).to_be_bytes());
            unsafe { nginx_insert6(tree, key.as_mut_ptr(), mask.as_mut_ptr(), number) };
        } else {
            let mask = !(rule.host_bits() as u32);
            unsafe { nginx_insert4(tree, rule.base as u32, mask, number) };
        }
    }
    Some(Box::new(Of {
        name: "nginx geo",
        bytes: None,
        find: move |address| {
            let found = match address {
                IpAddr::V4(address) => unsafe { nginx_find4(tree, address.into()) },
                IpAddr::V6(address) => {
                    let mut key = address.octets();
                    unsafe { nginx_find6(tree, key.as_mut_ptr()) }
                }
            };
            // NGX_RADIX_NO_VALUE
            if found == usize::MAX { 0 } else { found as u64 }
        },
    }))
}

//! Any bytes as the file of bans: read as far as they can be, and what was read is what is written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::shield::{BanFile, BanStore, parse};

fuzz_target!(|bytes: &[u8]| {
    let content = parse(bytes);
    if content.damage.is_some() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let store = BanFile::new(folder.path());
    let bans: Vec<_> = content.bans.into_values().collect();
    // Escapes make a line longer than it came.
    let long = |ban| serde_json::to_string(ban).is_ok_and(|line| line.len() > 8 * 1024);
    if bans.is_empty() || bans.iter().any(long) {
        return;
    }
    store.put(&bans).expect("it can be written");
    let mut again = BanFile::new(folder.path()).load().expect("it can be read");
    let mut bans = bans;
    bans.sort_by_key(|ban| ban.address);
    again.sort_by_key(|ban| ban.address);
    assert_eq!(bans, again);
});

//! Any text as a file of backends: read within its limits, or refused with a reason.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::discovery::file;

fuzz_target!(|text: &str| {
    for json in [false, true] {
        match file::parse(text, json) {
            Ok(backends) => {
                for backend in backends.instances {
                    assert!((1..=1_000).contains(&backend.weight));
                    assert!(backend.placement.priority <= 1_000);
                }
            }
            Err(why) => assert!(!why.trim().is_empty()),
        }
    }
});

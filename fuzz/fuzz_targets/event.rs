//! Any bytes as an event: what was read is written within the limits, and folds without a panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_events::{Event, Job};

fuzz_target!(|bytes: &[u8]| {
    let mut job = Job::default();
    for line in bytes.split(|byte| *byte == b'\n') {
        if let Ok(event) = Event::parse(line) {
            job.fold(&event);
            if let Ok(written) = event.to_json() {
                assert_eq!(
                    Event::parse(written.as_bytes()).expect("what we write can be read"),
                    event
                );
            }
        }
    }
    assert_eq!(job.status(), job.clone().status());
});

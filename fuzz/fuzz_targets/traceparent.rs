//! Any bytes as `traceparent`: what is understood is written as the standard has it, and means the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::trace::parent::Parent;

fuzz_target!(|bytes: &[u8]| {
    let Some(parent) = Parent::parse(bytes) else {
        return;
    };
    let written = parent.to_string();
    assert_eq!(Parent::parse(written.as_bytes()), Some(parent));
    // All but the version, other flags, and what a later version may add.
    assert_eq!(bytes.get(2..53), written.as_bytes().get(2..53));
});

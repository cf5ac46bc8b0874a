//! Any bytes as a registration or a registry's answer; what was read is written and read the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_eureka::{
    applications_from_json, applications_to_json, instance_from_json, instance_to_json,
};

fuzz_target!(|bytes: &[u8]| {
    if let Ok(instance) = instance_from_json(bytes) {
        let written = instance_to_json(&instance).to_string();
        let again = instance_from_json(written.as_bytes()).expect("what we write can be read");
        assert_eq!(instance_to_json(&again).to_string(), written);
    }
    if let Ok(applications) = applications_from_json(bytes) {
        let written = applications_to_json(&applications).to_string();
        applications_from_json(written.as_bytes()).expect("what we write can be read");
    }
});

//! Any bytes as method, target, agent and head: nothing panics, a second look finds the same, and what was answered
//! well is no search in vain.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_gate::shield::{Request, Signal, signals};

fuzz_target!(|input: (Vec<u8>, Vec<u8>, Vec<u8>, Vec<u8>, u16)| {
    let (method, target, agent, head, status) = &input;
    let request = Request {
        method,
        target,
        agent: Some(agent),
        head,
        status: *status,
    };
    let found = signals(&request);
    assert_eq!(found, signals(&request));
    let answered = signals(&Request {
        status: 200,
        ..request
    });
    for probe in [
        Signal::DotFile,
        Signal::ScriptProbe,
        Signal::LeftoverFile,
        Signal::AdminProbe,
        Signal::BadMethod,
    ] {
        assert!(!answered.has(probe));
    }
    // Signals are of what was asked for; how the answer looks adds probes and takes nothing.
    for signal in answered.iter() {
        assert!(found.has(signal));
    }
});

//! Any bytes as a plain list: problems name lines that are there.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_ipfilter::{Action, Builder};

fuzz_target!(|text: &[u8]| {
    let mut builder = Builder::new();
    builder.plain("list", text, Action::Deny);
    let lines = text.split(|byte| *byte == b'\n').count();
    if let Err(problems) = builder.build() {
        for problem in problems {
            assert!(
                (1..=lines).contains(&(problem.line as usize)),
                "{problem:?}"
            );
        }
    }
});

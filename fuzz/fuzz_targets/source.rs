//! Any text as a program in any language: the first byte chooses it. Every finding points into the text.
#![no_main]

use libfuzzer_sys::fuzz_target;
use munjigi_analyzer::engine::analyse;
use munjigi_analyzer::finding::{Language, Source};

fuzz_target!(|bytes: &[u8]| {
    let Some((choice, rest)) = bytes.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let language = match choice % 5 {
        0 => Language::C,
        1 => Language::Java,
        2 => Language::JavaScript,
        3 => Language::Python,
        _ => Language::TypeScript {
            tsx: choice % 2 == 0,
        },
    };
    let source = Source {
        path: "src/a",
        language,
        text: &text,
    };
    for finding in analyse(&source, &|| false).findings {
        assert!(finding.span.start <= finding.span.end && finding.span.end as usize <= text.len());
        for step in &finding.flow {
            assert!(step.span.start <= step.span.end && step.span.end as usize <= text.len());
        }
    }
});

//! No text makes the engines panic, hang or lie about their bounds.

#![expect(
    clippy::unwrap_used,
    clippy::string_slice,
    reason = "a test fails by panicking"
)]

use std::fs;
use std::path::Path;

use munjigi_analyzer::engine;
use munjigi_analyzer::finding::{Analysis, Language, Source};
use proptest::prelude::*;

const LANGUAGES: [(&str, Language); 6] = [
    ("java/Servlet.java", Language::Java),
    ("python/web.py", Language::Python),
    ("javascript/app.js", Language::JavaScript),
    ("typescript/service.ts", Language::TypeScript { tsx: false }),
    ("typescript/view.tsx", Language::TypeScript { tsx: true }),
    ("c/main.c", Language::C),
];

fn analyse(text: &str, language: Language) -> Analysis {
    let source = Source {
        path: "x",
        language,
        text,
    };
    let analysis = engine::analyse(&source, &|| false);
    for finding in &analysis.findings {
        assert!(
            text.get(finding.span.start as usize..finding.span.end as usize)
                .is_some()
        );
        for step in &finding.flow {
            assert!(
                text.get(step.span.start as usize..step.span.end as usize)
                    .is_some()
            );
        }
    }
    analysis
}

fn fixture(name: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read_to_string(root.join(name)).unwrap()
}

fn boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap()
}

/// One edit of a source: cut, double, swap or put in a piece.
#[derive(Debug, Clone)]
enum Edit {
    Cut(usize, usize),
    Double(usize, usize),
    Insert(usize, String),
}

fn edits() -> impl Strategy<Value = Vec<Edit>> {
    let pieces = prop::sample::select(vec![
        "(",
        ")",
        "{",
        "}",
        "[",
        "]",
        "\"",
        "'",
        "`",
        "${",
        "\\",
        "\n",
        "+",
        "=",
        ";",
        ":",
        ",",
        ".",
        "=>",
        "->",
        "**",
        "/*",
        "*/",
        "//",
        "#",
        "\u{0}",
        "é",
        "𝒳",
        "return ",
        "for(;;)",
        "while(1)",
        "switch(x){",
        "case 1:",
        "lambda: ",
        "class A extends A {",
        "def f(f=f): ",
        "x[x]=x",
        "...",
    ]);
    prop::collection::vec(
        prop_oneof![
            (any::<prop::sample::Index>(), 0..400_usize)
                .prop_map(|(at, len)| Edit::Cut(at.index(8000), len)),
            (any::<prop::sample::Index>(), 0..400_usize)
                .prop_map(|(at, len)| Edit::Double(at.index(8000), len)),
            (any::<prop::sample::Index>(), pieces)
                .prop_map(|(at, piece)| Edit::Insert(at.index(8000), piece.to_owned())),
        ],
        1..12,
    )
}

fn apply(mut text: String, edits: &[Edit]) -> String {
    for edit in edits {
        match edit {
            Edit::Cut(at, len) => {
                let (start, end) = (boundary(&text, *at), boundary(&text, at + len));
                text.replace_range(start..end, "");
            }
            Edit::Double(at, len) => {
                let (start, end) = (boundary(&text, *at), boundary(&text, at + len));
                let piece = text[start..end].to_owned();
                text.insert_str(start, &piece);
            }
            Edit::Insert(at, piece) => {
                let at = boundary(&text, *at);
                text.insert_str(at, piece);
            }
        }
    }
    text
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn mutated_sources_are_survived(which in 0..LANGUAGES.len(), edits in edits()) {
        let (name, language) = LANGUAGES[which];
        let text = apply(fixture(name), &edits);
        let first = analyse(&text, language);
        let second = analyse(&text, language);
        prop_assert_eq!(format!("{:?}", first.findings), format!("{:?}", second.findings));
    }

    #[test]
    fn any_text_is_survived(which in 0..LANGUAGES.len(), text in ".{0,400}") {
        analyse(&text, LANGUAGES[which].1);
    }
}

#[test]
fn deep_nesting_is_cut_and_said() {
    let deep = 3000;
    for (language, text) in [
        (
            Language::Java,
            format!(
                "class A {{ void f() {{ g({}1{}); }} }}",
                "(".repeat(deep),
                ")".repeat(deep)
            ),
        ),
        (
            Language::Python,
            format!("x = {}1{}\n", "[".repeat(deep), "]".repeat(deep)),
        ),
        (
            Language::JavaScript,
            format!("{}1{}", "f(() => ".repeat(deep), ")".repeat(deep)),
        ),
        (
            Language::C,
            format!(
                "void f() {{ {} ; {} }}",
                "if (x) {".repeat(deep),
                "}".repeat(deep)
            ),
        ),
        (Language::JavaScript, "a.b(".repeat(deep)),
    ] {
        let analysis = analyse(&text, language);
        // Without its closing brackets the text is one error, not a deep tree.
        if text.contains(')') || text.contains(']') {
            assert!(analysis.truncated.is_some(), "{language:?}");
        }
    }
}

#[test]
fn long_chains_need_no_stack() {
    let many = 20_000;
    for (language, text) in [
        (
            Language::Java,
            format!("class A {{ String s = {}\"x\"; }}", "\"a\" + ".repeat(many)),
        ),
        (
            Language::Python,
            format!("x = {}'x'\n", "'a' + ".repeat(many)),
        ),
        (
            Language::JavaScript,
            format!("x = {}'x'\n", "'a' + ".repeat(many)),
        ),
        (
            Language::Python,
            format!("if x: pass\n{}", "elif y: pass\n".repeat(many)),
        ),
    ] {
        analyse(&text, language);
    }
}

#[test]
fn knots_of_calls_are_bounded() {
    // Each function calls the next ten times, with a value that must be followed.
    let mut text = String::from("const cp = require('child_process');\n");
    for at in 0..60 {
        let calls = format!("f{}(x + 1); ", at + 1).repeat(10);
        text.push_str(&format!("function f{at}(x) {{ {calls} return x; }}\n"));
    }
    text.push_str(
        "function f60(x) { cp.exec(x); }\nmodule.exports = (req, res) => f0(req.query.x);\n",
    );
    let analysis = analyse(&text, Language::JavaScript);
    assert!(analysis.truncated.is_some());
}

#[test]
fn recursion_ends() {
    let text = "import os\nfrom flask import request\ndef f(x):\n    return f(g(x))\ndef g(x):\n    return f(x) + g(x)\n\
                def h():\n    os.system(f(request.args['x']))\n";
    let analysis = analyse(text, Language::Python);
    assert_eq!(analysis.findings.len(), 1);
}

//! The engines: an abstract interpreter over the IR that follows attacker-controlled data and constants.
//!
//! Each function of a file is run once as a framework would call it, with abstract values: what is known of a value
//! exactly, where it came from, what the attacker controls in it. Calls of functions in the same file are followed with
//! the values at hand, so that helpers, wrappers, closures and fields need no summaries of their own; bounds counted in
//! steps keep the work linear in the size of the file. Branches whose condition is constant are not run; collections
//! keep elements and keys apart where indexes and keys are constant.

mod builtin;
mod call;
mod consult;
mod cookie;
mod entry;
mod eval;
mod exec;
mod fold;
mod guard;
mod machine;
mod report;
mod resolve;
mod state;
mod value;
mod xml;

use std::collections::BTreeMap;

use crate::finding::{Analysis, Rule, Source};
use crate::{lower, parse, rules};

/// What other files of the same input say.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Keys of all `.properties` files with the one value they have; `None` where files differ.
    properties: BTreeMap<String, Option<String>>,
}

/// Keys kept of all `.properties` files of one input; further ones are as if not there.
const PROPERTIES: usize = 100_000;

impl Context {
    /// Notes the text of a Java `.properties` file. Only lines that need no continuation are read.
    pub fn add_properties(&mut self, text: &str) {
        for line in text.lines().map(str::trim_start) {
            if line.starts_with(['#', '!']) || line.ends_with('\\') {
                continue;
            }
            let Some((key, value)) = line.split_once(['=', ':']) else {
                continue;
            };
            let (key, value) = (key.trim_end(), value.trim());
            let room = self.properties.len() < PROPERTIES;
            match self.properties.get_mut(key) {
                Some(old) if old.as_deref() != Some(value) => *old = None,
                Some(_) => {}
                None if room => {
                    self.properties
                        .insert(key.to_owned(), Some(value.to_owned()));
                }
                None => {}
            }
        }
    }

    /// A digest of all that it says.
    pub(crate) fn digest(&self) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new();
        for (key, value) in &self.properties {
            for part in [Some(key), value.as_ref()] {
                let length = part.map_or(u64::MAX, |part| u64::try_from(part.len()).unwrap_or(0));
                hasher.update(&length.to_le_bytes());
                hasher.update(part.map_or(&[][..], |part| part.as_bytes()));
            }
        }
        hasher.finalize()
    }

    pub(crate) fn property(&self, key: &str) -> Option<&str> {
        self.properties.get(key)?.as_deref()
    }
}

/// [`analyse_in`] for a file of which nothing around it is known.
pub fn analyse(source: &Source<'_>, deadline: &dyn Fn() -> bool) -> Analysis {
    analyse_in(source, &Context::default(), deadline)
}

/// What the engines say of one file. Pure and deterministic; `deadline` is asked now and then and ends the work, marked
/// as truncated, where it says `true`.
pub fn analyse_in(source: &Source<'_>, context: &Context, deadline: &dyn Fn() -> bool) -> Analysis {
    let Some(tree) = parse::parse(source, deadline) else {
        return Analysis {
            findings: Vec::new(),
            truncated: Some("time guard"),
        };
    };
    let mut program = lower::lower(source, &tree);
    drop(tree);
    let names = std::mem::take(&mut program.names);
    let mut machine = machine::Machine::new(&program, names, source, context, deadline);
    machine.run_file();
    let mut analysis = machine.report(source);
    if program.cut {
        analysis.truncated = analysis
            .truncated
            .or(Some("nesting of the source went beyond the bound"));
    }
    analysis
}

/// All rules of the engines, in a fixed order.
pub fn rules() -> &'static [&'static Rule] {
    rules::ALL
}

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
mod state;
mod value;
mod xml;

use crate::finding::{Analysis, Rule, Source};
use crate::{lower, parse, rules};

/// What the engines say of one file. Pure and deterministic; `deadline` is asked now and then and ends the work, marked
/// as truncated, where it says `true`.
pub fn analyse(source: &Source<'_>, deadline: &dyn Fn() -> bool) -> Analysis {
    let Some(tree) = parse::parse(source, deadline) else {
        return Analysis {
            findings: Vec::new(),
            truncated: Some("time guard"),
        };
    };
    let mut program = lower::lower(source, &tree);
    drop(tree);
    let names = std::mem::take(&mut program.names);
    let models = rules::model::models(source.language);
    let mut machine = machine::Machine::new(&program, names, source, models, deadline);
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

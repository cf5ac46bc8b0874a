//! `munjigi check` and `munjigi settings`.

use std::io::{IsTerminal, Write};

use munjigi_foundation::settings::{Problem, Schema, Severity};

use crate::cli::{CheckArgs, Role, SettingsArgs};
use crate::outcome::{Exit, Failure, say};
use crate::settings;

/// Checks a settings file: 0 when it is good, 1 when it is not.
pub(crate) fn check(args: &CheckArgs) -> Result<Exit, Failure> {
    let document = settings::load(&args.file)?;
    let (read, problems) = settings::read(&document, &[]);
    if !problems.is_empty() {
        print_problems(&document, &problems);
    }
    if read.is_none() {
        return Ok(Exit::No);
    }
    say(format!("{} is good", document.name));
    Ok(Exit::Good)
}

/// Shows problems on standard error.
pub(crate) fn print_problems(
    document: &munjigi_foundation::settings::Document,
    problems: &[Problem],
) {
    let colour = std::io::stderr().is_terminal();
    drop(write!(
        std::io::stderr().lock(),
        "{}",
        document.render(problems, colour)
    ));
}

/// True when a problem keeps the program from starting.
pub(crate) fn any_error(problems: &[Problem]) -> bool {
    problems
        .iter()
        .any(|problem| problem.severity == Severity::Error)
}

/// Prints every setting.
pub(crate) fn settings(args: &SettingsArgs) -> Exit {
    if args.role.is_none() {
        print_schemas(&[&settings::CLUSTER]);
    }
    for (role, schemas) in [
        (Role::Gate, munjigi_gate::settings::SCHEMAS),
        (Role::Registry, munjigi_registry::settings::SCHEMAS),
        (Role::Hub, munjigi_hub::settings::SCHEMAS),
        (
            Role::Worker,
            &[
                &munjigi_worker::settings::SCHEMA,
                &munjigi_worker::settings::MODEL_SCHEMA,
            ],
        ),
    ] {
        if args.role.is_none_or(|wanted| wanted == role) {
            print_schemas(schemas);
        }
    }
    Exit::Good
}

fn print_schemas(schemas: &[&Schema]) {
    for schema in schemas {
        say(format!("{}  {}", schema.place, schema.meaning));
        let width = |of: fn(&munjigi_foundation::settings::Key) -> usize| {
            schema
                .keys
                .iter()
                .filter(|key| !key.later)
                .map(of)
                .max()
                .unwrap_or(0)
        };
        let name = width(|key| key.name.len());
        let kind = width(|key| key.kind.len());
        let default = width(|key| key.default.len());
        for key in schema.keys.iter().filter(|key| !key.later) {
            let limit = if key.limit.is_empty() {
                String::new()
            } else {
                format!(" ({})", key.limit)
            };
            say(format!(
                "  {:name$}  {:kind$}  {:default$}  {}{limit}",
                key.name, key.kind, key.default, key.meaning
            ));
        }
        let later: Vec<_> = schema
            .keys
            .iter()
            .filter(|key| key.later)
            .map(|key| key.name)
            .collect();
        if !later.is_empty() {
            say(format!("  (not in this version: {})", later.join(", ")));
        }
        say("");
    }
}

//! The binary that the worker's tests give to it as "our own": it leads `sandbox` to the sandbox, and `model` to a
//! small model that repeats what it was given.

use std::error::Error;
use std::ffi::OsString;
use std::io::{BufRead, Write};
use std::process::ExitCode;

use munjigi_worker::sandbox;
use serde_json::{Value, json};

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((first, rest)) if first == sandbox::SUBCOMMAND => sandbox::enter(rest),
        Some((first, _)) if first == "model" => match model() {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        _ => ExitCode::from(2),
    }
}

fn say(line: &Value) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

fn model() -> Result<(), Box<dyn Error>> {
    for line in std::io::stdin().lock().lines() {
        let order: Value = serde_json::from_str(&line?)?;
        match order.get("type").and_then(Value::as_str) {
            Some("describe") => say(&json!({
                "type": "description", "id": "echo", "version": "1",
                "accepts": ["*"], "explains": [], "streaming": false,
            }))?,
            Some("analyze") => return analyze(&order),
            _ => return Ok(()),
        }
    }
    Ok(())
}

fn analyze(order: &Value) -> Result<(), Box<dyn Error>> {
    let input = order
        .get("input")
        .and_then(Value::as_str)
        .ok_or("no input")?;
    let output = order
        .get("output")
        .and_then(Value::as_str)
        .ok_or("no output")?;
    let bytes = std::fs::metadata(input)?.len();
    say(&json!({"type": "progress", "phase": "echo", "done": 1, "total": 1, "unit": "files"}))?;
    let finding = json!({"ruleId": "echo", "message": {"text": order.get("name")}, "bytes": bytes});
    say(&json!({"type": "finding", "result": finding}))?;
    std::fs::write(format!("{output}/findings.jsonl"), format!("{finding}\n"))?;
    std::fs::write(format!("{output}/scratch"), "not announced")?;
    say(&json!({"type": "artifact", "path": "findings.jsonl"}))?;
    say(&json!({"type": "done"}))?;
    Ok(())
}

//! The gate of a settings file and nothing else: builds in a fraction of the time that the whole program takes, for
//! measuring a change of the gate. `gate_alone FILE`; SIGTERM drains and ends it.

use std::process::ExitCode;
use std::time::Duration;

use munjigi_foundation::settings::{Document, Environment, Key, Schema};
use munjigi_gate::{Gate, GateSettings, Wiring};
use tokio::signal::unix::{SignalKind, signal};

static ROOT: Schema = Schema {
    place: "the settings file",
    meaning: "",
    keys: &[Key::new("gate", "table", "", "", "the edge")],
};

fn main() -> ExitCode {
    let Some(file) = std::env::args().nth(1) else {
        eprintln!("usage: gate_alone FILE");
        return ExitCode::from(2);
    };
    match run(&file) {
        Ok(()) => ExitCode::SUCCESS,
        Err(problem) => {
            eprintln!("error: {problem}");
            ExitCode::from(2)
        }
    }
}

fn run(file: &str) -> Result<(), String> {
    let text = std::fs::read_to_string(file).map_err(|error| format!("{file}: {error}"))?;
    let document = Document::new(file.as_ref(), text, Environment::new());
    let (settings, problems) = document.read(&ROOT, |root| {
        root.table("gate", munjigi_gate::settings::SCHEMA)
            .as_ref()
            .and_then(GateSettings::read)
    });
    let settings = settings.ok_or_else(|| document.render(&problems, false))?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        let mut stop = signal(SignalKind::terminate()).map_err(|error| error.to_string())?;
        let gate = Gate::start(settings, Wiring::default())
            .await
            .map_err(|error| error.to_string())?;
        stop.recv().await;
        gate.drain(Duration::from_secs(1)).await;
        Ok(())
    })
}

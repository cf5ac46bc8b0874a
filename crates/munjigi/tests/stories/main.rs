//! Stories of the whole program: real processes, real sockets, ports of their own.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test fails by panicking, and says what it saw"
)]

mod bulk;
mod chaos;
mod events;
mod handover;
mod load;
mod main_job;
mod memory;
mod newcomer;
mod operators;
mod reload;
mod sarif;
mod sealed;
mod shield;
mod users;

use std::path::{Path, PathBuf};

/// The program under test.
fn binary() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_munjigi"))
}

/// The `command = […]` of the slow model.
fn slow_model() -> String {
    let script = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/stories/models/slow.py");
    format!(
        "[\"python3\", {:?}], read = [{:?}]",
        script,
        script.parent().unwrap()
    )
}

/// Python source with one certain finding.
const VULNERABLE: &str = r#"import os
from flask import Flask, request

app = Flask(__name__)


@app.route("/ping")
def ping():
    host = request.args.get("host")
    os.system("ping -c 1 " + host)
    return "ok"
"#;

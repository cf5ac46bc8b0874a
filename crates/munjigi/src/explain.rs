//! `munjigi explain`: a request's way, and a finding.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use munjigi_analyzer::Style;
use munjigi_gate::explain::{Asked, request, snapshot};

use crate::check::print_problems;
use crate::outcome::{Exit, Failure, say};
use crate::settings;

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Each decision that a request would meet, in order, by the code that serves real requests
    #[command(
        after_help = "Example:\n  munjigi explain request GET 'http://example.com/analysis?serverId=143' --config munjigi.toml --listener inner"
    )]
    Request(RequestArgs),
    /// A finding in words: its flow, score, contributions, counterfactuals
    #[command(
        after_help = "Example:\n  munjigi scan src/ --results findings/\n  munjigi explain finding 3f1c --results findings/"
    )]
    Finding(FindingArgs),
}

#[derive(Debug, Args)]
pub(crate) struct RequestArgs {
    /// GET, POST …
    method: String,
    /// As a client would write it
    url: String,
    /// A header field; may be given several times
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    headers: Vec<String>,
    /// The peer's address
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1")]
    from: IpAddr,
    /// The listener it comes to [default: the first one]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The settings file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct FindingArgs {
    /// The finding's id, or the beginning of it
    id: String,
    /// The folder that `scan --results` or `result` wrote
    #[arg(long, value_name = "DIR")]
    results: PathBuf,
}

/// Explains.
pub(crate) fn explain(command: &ExplainCommand) -> Result<Exit, Failure> {
    match command {
        ExplainCommand::Request(args) => explain_request(args),
        ExplainCommand::Finding(args) => {
            let style = if std::io::stdout().is_terminal() {
                Style::coloured()
            } else {
                Style::plain()
            };
            let text = munjigi_analyzer::explain_finding(&args.results, &args.id, style)
                .map_err(Failure::could_not)?;
            say(text.trim_end());
            Ok(Exit::Good)
        }
    }
}

fn explain_request(args: &RequestArgs) -> Result<Exit, Failure> {
    let document = settings::load(&args.config)?;
    let (read, problems) = settings::read(&document, &[]);
    if read.is_none() {
        print_problems(&document, &problems);
        return Ok(Exit::CouldNot);
    }
    let gate = read
        .and_then(|settings| settings.gate)
        .ok_or_else(|| Failure::could_not(format!("{} has no [gate]", document.name)))?;
    if let Some(wanted) = &args.listener
        && gate
            .listeners
            .iter()
            .all(|listener| listener.name != *wanted)
    {
        let names: Vec<_> = gate
            .listeners
            .iter()
            .map(|listener| listener.name.as_str())
            .collect();
        return Err(
            Failure::could_not(format!("there is no listener \"{wanted}\""))
                .hint(format!("the listeners are {}", names.join(", "))),
        );
    }
    let headers = args
        .headers
        .iter()
        .map(|line| header(line))
        .collect::<Result<Vec<_>, _>>()?;
    let asked = Asked {
        method: &args.method.to_ascii_uppercase(),
        url: &args.url,
        headers: &headers,
        from: args.from,
        listener: args.listener.as_deref(),
    };
    // Backends may be followed on a runtime; none is needed for what the file says.
    let decisions = request(&snapshot(gate), asked).decisions;
    let width = decisions
        .iter()
        .map(|decision| decision.stage.len())
        .max()
        .unwrap_or(0);
    for decision in &decisions {
        say(format!("{:width$}  {}", decision.stage, decision.verdict));
    }
    Ok(Exit::Good)
}

fn header(line: &str) -> Result<(String, String), Failure> {
    line.split_once(':')
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, _)| !name.is_empty())
        .ok_or_else(|| {
            Failure::could_not(format!("\"{line}\" is no header")).hint("write -H 'name: value'")
        })
}

//! `munjigi explain`: a request's way, the IP filter's verdict, how WebSockets ended, and a finding.

use std::io::IsTerminal;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use munjigi_analyzer::Style;
use munjigi_gate::GateSettings;
use munjigi_gate::explain::{Asked, request, snapshot};
use munjigi_gate::settings::ListenerSettings;

use crate::admin::{self, ClosedArgs};
use crate::check::print_problems;
use crate::outcome::{Exit, Failure, remark, say};
use crate::settings;
use crate::wait;

#[derive(Debug, Subcommand)]
pub(crate) enum ExplainCommand {
    /// Each decision that a request would meet, in order, by the code that serves real requests
    #[command(
        after_help = "Example:\n  munjigi explain request GET 'http://example.com/analysis?serverId=143' --config munjigi.toml --listener inner"
    )]
    Request(RequestArgs),
    /// Whether an address may come in, and the rule and the line that say so
    #[command(after_help = "Example:\n  munjigi explain ip 203.0.113.7 --config munjigi.toml")]
    Ip(IpArgs),
    /// Who closed WebSockets of a running gate, how, and which timers on the way cut them
    #[command(
        after_help = "Examples:\n  munjigi explain closed\n  munjigi explain closed live --json --admin unix:/run/munjigi/admin.sock"
    )]
    Closed(ClosedArgs),
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
    /// The listener it comes to [default: the one with the url's port, else the first one]
    #[arg(long, value_name = "NAME")]
    listener: Option<String>,
    /// The settings file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct IpArgs {
    /// IPv4 or IPv6
    #[arg(value_name = "ADDR")]
    address: IpAddr,
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
pub(crate) fn explain(command: ExplainCommand) -> Result<Exit, Failure> {
    match command {
        ExplainCommand::Request(args) => explain_request(&args),
        ExplainCommand::Ip(args) => explain_ip(&args),
        ExplainCommand::Closed(args) => wait(admin::explain_closed(args)),
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

/// The gate's settings in a file; `None` when something is wrong with it, which was said then.
fn load_gate(config: &Path) -> Result<Option<GateSettings>, Failure> {
    let document = settings::load(config)?;
    let (read, problems) = settings::read(&document, &[]);
    let Some(read) = read else {
        print_problems(&document, &problems);
        return Ok(None);
    };
    let without = || Failure::could_not(format!("{} has no [gate]", document.name));
    read.gate.map(Some).ok_or_else(without)
}

fn explain_ip(args: &IpArgs) -> Result<Exit, Failure> {
    let Some(gate) = load_gate(&args.config)? else {
        return Ok(Exit::CouldNot);
    };
    match &gate.ip_filter {
        Some(filter) => say(munjigi_gate::ip_filter::explain(filter, args.address)),
        None => say("allow: there is no [gate.ip_filter]"),
    }
    Ok(Exit::Good)
}

fn explain_request(args: &RequestArgs) -> Result<Exit, Failure> {
    let Some(gate) = load_gate(&args.config)? else {
        return Ok(Exit::CouldNot);
    };
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
    let method = method(&args.method)?;
    let port = parts(&args.url)?;
    let url = match scheme(&args.url) {
        Some(_) => args.url.clone(),
        None => format!("http://{}", args.url),
    };
    let (listener, guessed) = match &args.listener {
        Some(named) => (Some(named.as_str()), None),
        None => by_port(&gate.listeners, port),
    };
    let headers = args
        .headers
        .iter()
        .map(|line| header(line))
        .collect::<Result<Vec<_>, _>>()?;
    let asked = Asked {
        method: &method,
        url: &url,
        headers: &headers,
        from: args.from,
        listener,
    };
    if let Some(guessed) = guessed {
        remark("hint", guessed);
    }
    // Backends may be followed on a runtime; none is needed for what the file says.
    let decisions = request(&snapshot(gate.clone()), asked).decisions;
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

/// A method as a client could send it (a token, RFC 9110 §9.1), in capitals.
fn method(written: &str) -> Result<String, Failure> {
    if !is_token(written) {
        return Err(Failure::could_not(format!("\"{written}\" is no method"))
            .hint("write the method first, then the url: munjigi explain request GET http://example.com/ --config FILE"));
    }
    Ok(written.to_ascii_uppercase())
}

/// RFC 9110 §5.6.2
fn is_token(text: &str) -> bool {
    let marks = "!#$%&'*+-.^_`|~";
    !text.is_empty()
        && text
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || marks.contains(c))
}

/// What stands before `://`, and what after; a path may hold such an url in its query.
fn scheme(url: &str) -> Option<(&str, &str)> {
    url.split_once("://")
        .filter(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()))
}

/// Of a url what chooses a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Port {
    /// As written, or that of the scheme.
    number: u16,
    written: bool,
}

/// Refuses what no client would send, and finds the port. A path alone is taken too.
fn parts(url: &str) -> Result<Port, Failure> {
    let refuse =
        |why: &str, hint: &str| Err(Failure::could_not(format!("\"{url}\" {why}")).hint(hint));
    let example = "write it as http://example.com:8080/path?query";
    if url.is_empty() {
        return refuse("is no url", example);
    }
    if let Some(c) = url.chars().find(|c| !c.is_ascii_graphic()) {
        let why = format!("holds {c:?}, which no url holds");
        return refuse(&why, "write it percent-encoded: a blank is %20");
    }
    if url.contains('#') {
        return refuse(
            "holds a fragment",
            "no client sends what stands after `#`: leave it out",
        );
    }
    let (scheme, rest) = scheme(url).unwrap_or(("http", url));
    let number = match scheme.to_ascii_lowercase().as_str() {
        "http" | "ws" => 80,
        "https" | "wss" => 443,
        _ => return refuse("is no url that a gate serves", example),
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end).unwrap_or((rest, ""));
    if authority.contains('@') {
        return refuse(
            "names a user",
            "a client sends it as a header: -H 'Authorization: …'",
        );
    }
    if authority.is_empty() && (rest.len() < url.len() || !target.starts_with('/')) {
        return refuse("names no host", example);
    }
    // What stands in brackets is an IPv6 address and holds colons of its own.
    let after = authority.rfind(']').map_or(0, |at| at + 1);
    let port = authority
        .get(after..)
        .and_then(|rest| rest.rsplit_once(':'));
    match port.map(|(_, port)| port.parse::<u16>()) {
        None => Ok(Port {
            number,
            written: false,
        }),
        Some(Ok(number)) if number > 0 => Ok(Port {
            number,
            written: true,
        }),
        Some(_) => refuse("has no port that there is", "a port is 1 to 65535"),
    }
}

/// The listener that the url's port leads to, and what to say when none does: behind a forwarded port any may be meant.
fn by_port(listeners: &[ListenerSettings], port: Port) -> (Option<&str>, Option<String>) {
    // Layer 4 has no requests.
    let http = || {
        listeners
            .iter()
            .filter(|listener| listener.layer4.is_none())
    };
    let there = http().find(|listener| listener.address.port() == port.number);
    if let Some(there) = there {
        return (Some(&there.name), None);
    }
    let first = http().next().map(|listener| listener.name.as_str());
    if http().count() < 2 || !port.written {
        return (first, None);
    }
    let all: Vec<_> = http()
        .map(|listener| format!("{} {}", listener.name, listener.address))
        .collect();
    let said = format!(
        "no listener has the port {}, so the first one is taken; --listener NAME chooses: {}",
        port.number,
        all.join(", ")
    );
    (first, Some(said))
}

fn header(line: &str) -> Result<(String, String), Failure> {
    line.split_once(':')
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .filter(|(name, value)| is_token(name) && !value.contains(char::is_control))
        .ok_or_else(|| {
            Failure::could_not(format!("\"{line}\" is no header")).hint("write -H 'name: value'")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_no_request() {
        for wrong in ["", "G E T", "GET/", "http://x", "GÉT", "GET\r\n"] {
            assert!(method(wrong).is_err(), "{wrong}");
            let said = method(wrong).err().unwrap().to_string();
            assert!(said.contains("hint"), "{said}");
        }
        assert_eq!(method("get").ok().as_deref(), Some("GET"));
        for (url, said) in [
            ("", "is no url"),
            ("http://x/a b", "holds ' '"),
            ("http://x/é", "holds 'é'"),
            ("http://x/a\r\nHost: y", "holds '\\r'"),
            ("http://x/#a", "holds a fragment"),
            ("ftp://x/", "is no url that a gate serves"),
            ("http:///a", "names no host"),
            ("?a=1", "names no host"),
            ("http://u:p@x/", "names a user"),
            ("http://x:99999/", "has no port that there is"),
            ("http://x:0/", "has no port that there is"),
            ("http://x:/", "has no port that there is"),
        ] {
            let refused = parts(url).err().map(|failure| failure.to_string());
            assert!(
                refused
                    .as_ref()
                    .is_some_and(|refused| refused.contains(said)),
                "{url}: {refused:?}"
            );
        }
        for (url, number, written) in [
            ("http://x", 80, false),
            ("https://x/", 443, false),
            ("WSS://x/", 443, false),
            ("http://x:8080?a=1", 8080, true),
            ("x:81/a", 81, true),
            ("/a?b=http://y:9/", 80, false),
            ("http://[::1]/", 80, false),
            ("http://[::1]:82/", 82, true),
        ] {
            assert_eq!(parts(url).ok(), Some(Port { number, written }), "{url}");
        }
        for wrong in ["name", ": value", "a b: c", "a: b\r\nc: d"] {
            assert!(header(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_port_chooses_the_listener() {
        let listener =
            |name: &str, address: &str| ListenerSettings::new(name, address.parse().unwrap());
        let two = [
            listener("web", "0.0.0.0:8443"),
            listener("inner", "127.0.0.1:8080"),
        ];
        let at = |number, written| Port { number, written };
        assert_eq!(by_port(&two, at(8080, true)), (Some("inner"), None));
        assert_eq!(by_port(&two, at(80, false)), (Some("web"), None));
        let (first, said) = by_port(&two, at(9, true));
        assert_eq!(first, Some("web"));
        assert!(
            said.unwrap()
                .contains("web 0.0.0.0:8443, inner 127.0.0.1:8080")
        );
        assert_eq!(by_port(&two[..1], at(9, true)), (Some("web"), None));
        assert_eq!(by_port(&[], at(9, true)), (None, None));
    }
}

//! The commands that speak to a running gate, over its admin face: `backends`, `drain`, `weight`, `connections`,
//! `log-level`, `explain closed` (`bans` has a room of its own).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use reqwest::{Method, Url};
use serde_json::{Value, json};

use crate::outcome::{Exit, Failure, say};

/// Where the socket lies when nothing else is said: what `munjigi up` leaves, then what `munjigi run` does.
const SOCKETS: [&str; 2] = ["munjigi-data/admin.sock", "admin.sock"];
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// Which gate, and who asks.
#[derive(Debug, Args)]
pub(crate) struct AdminArgs {
    /// The gate's admin face: unix:PATH or http://HOST:PORT [default: ./munjigi-data/admin.sock, then ./admin.sock]
    #[arg(long, global = true, value_name = "PLACE")]
    admin: Option<String>,
    /// Holds the token that the face on TCP wants
    #[arg(long, global = true, value_name = "FILE")]
    admin_token_file: Option<PathBuf>,
}

/// `munjigi backends`
#[derive(Debug, Args)]
pub(crate) struct BackendsArgs {
    /// Only those of this service
    service: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// `munjigi drain`
#[derive(Debug, Args)]
pub(crate) struct DrainArgs {
    /// The backend's service
    service: String,
    /// Its address, as `munjigi backends` prints it
    address: SocketAddr,
    /// Takes it back: the backend gets requests again
    #[arg(long)]
    undo: bool,
    #[command(flatten)]
    admin: AdminArgs,
}

/// `munjigi weight`
#[derive(Debug, Args)]
pub(crate) struct WeightArgs {
    /// The backend's service
    service: String,
    /// Its address, as `munjigi backends` prints it
    address: SocketAddr,
    /// Its share from now on [default: its own again]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1_000))]
    weight: Option<u32>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// `munjigi connections`
#[derive(Debug, Args)]
pub(crate) struct ConnectionsArgs {
    /// How many, the oldest first
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    limit: u16,
    /// Only tunnels
    #[arg(long)]
    tunnels: bool,
    #[command(flatten)]
    admin: AdminArgs,
    /// Prints one JSON object a line
    #[arg(long)]
    json: bool,
}

/// `munjigi explain closed`
#[derive(Debug, Args)]
pub(crate) struct ClosedArgs {
    /// Only those of this route
    route: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
    /// Prints all that is known as one JSON object
    #[arg(long)]
    json: bool,
}

/// `munjigi log-level`
#[derive(Debug, Args)]
pub(crate) struct LogLevelArgs {
    /// As in the RUST_LOG convention, such as "info,munjigi_gate=debug" [default: prints the current one]
    filter: Option<String>,
    #[command(flatten)]
    admin: AdminArgs,
}

/// A gate's admin face.
pub(crate) struct Admin {
    place: String,
    http: reqwest::Client,
    base: String,
    token: Option<String>,
}

impl Admin {
    pub(crate) fn find(args: &AdminArgs) -> Result<Self, Failure> {
        let place = match &args.admin {
            Some(place) => place.clone(),
            None => SOCKETS
                .iter()
                .find(|socket| Path::new(socket).exists())
                .map(|socket| format!("unix:{socket}"))
                .ok_or_else(|| {
                    Failure::could_not("no gate is known here")
                        .hint("name one with --admin unix:PATH, or --admin http://HOST:PORT --admin-token-file FILE")
                })?,
        };
        let token = match &args.admin_token_file {
            Some(file) => {
                let text = std::fs::read_to_string(file).map_err(|error| {
                    Failure::could_not(format!("{} can't be read: {error}", file.display()))
                })?;
                Some(text.trim().to_owned())
            }
            None => None,
        };
        let builder = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(ANSWER_WITHIN);
        let (builder, base) = match place.strip_prefix("unix:") {
            Some(path) => (
                builder.unix_socket(Path::new(path)),
                "http://localhost".to_owned(),
            ),
            None => (builder, tcp_base(&place)?),
        };
        Ok(Self {
            http: builder.build().map_err(Failure::could_not)?,
            place,
            base,
            token,
        })
    }

    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Value, Failure> {
        let mut request = self.http.request(method, format!("{}{path}", self.base));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.json(body);
        }
        let unreachable = |error: &dyn std::fmt::Display| {
            Failure::could_not(format!(
                "the gate at {} does not answer: {error}",
                self.place
            ))
            .hint("does it run, and may you open its socket?")
        };
        let answer = request.send().await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        let body: Value = answer.json().await.map_err(|error| unreachable(&error))?;
        if status.is_success() {
            return Ok(body);
        }
        let said = |key: &str| body.get(key).and_then(Value::as_str);
        let detail = said("detail").unwrap_or("the gate refuses without a reason");
        let failure = if status.is_client_error() && status.as_u16() == 404 {
            Failure::no(detail)
        } else {
            Failure::could_not(detail)
        };
        Err(match said("hint") {
            Some(hint) => failure.hint(hint),
            None => failure,
        })
    }
}

fn tcp_base(place: &str) -> Result<String, Failure> {
    let good = Url::parse(place)
        .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.host().is_some());
    if !good {
        return Err(
            Failure::could_not(format!("\"{place}\" is no place of an admin face"))
                .hint("write unix:PATH or http://HOST:PORT"),
        );
    }
    Ok(place.trim_end_matches('/').to_owned())
}

pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// A value as a cell of a table: what comes from a registry may hold anything.
pub(crate) fn cell(value: &Value, key: &str) -> String {
    let text = match value.get(key) {
        None | Some(Value::Null) => return "-".to_owned(),
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
    };
    text.chars().filter(|c| !c.is_control()).collect()
}

/// Rows in columns as wide as their widest cell; the last one ends where it ends.
pub(crate) fn table(rows: &[Vec<String>]) -> Vec<String> {
    let mut widths: Vec<usize> = Vec::new();
    for row in rows {
        widths.resize(widths.len().max(row.len()), 0);
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let padded: Vec<_> = cells
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        padded.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Lists the backends of each service, with state and figures.
pub(crate) async fn backends(args: BackendsArgs) -> Result<Exit, Failure> {
    let answer = Admin::find(&args.admin)?
        .ask(Method::GET, "/backends", None)
        .await?;
    let services = list(&answer, "services");
    if let Some(wanted) = &args.service
        && services
            .iter()
            .all(|service| cell(service, "name") != *wanted)
    {
        let known: Vec<_> = services
            .iter()
            .map(|service| cell(service, "name"))
            .collect();
        return Err(Failure::no(format!("no route leads to a service {wanted}"))
            .hint(format!("the services are {}", known.join(", "))));
    }
    let titles = [
        "SERVICE",
        "ADDRESS",
        "STATE",
        "WEIGHT",
        "IN FLIGHT",
        "REQUESTS",
        "FAILURES",
        "",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for service in services {
        let name = cell(service, "name");
        if args.service.as_ref().is_some_and(|wanted| *wanted != name) {
            continue;
        }
        for backend in list(service, "backends") {
            if args.json {
                let mut line = backend.clone();
                if let Some(line) = line.as_object_mut() {
                    line.insert("service".to_owned(), name.clone().into());
                }
                say(line);
                continue;
            }
            let mut row = vec![name.clone()];
            row.extend(
                [
                    "address", "state", "weight", "inFlight", "requests", "failures",
                ]
                .map(|key| cell(backend, key)),
            );
            row.push(
                Some(cell(backend, "why"))
                    .filter(|why| why != "-")
                    .unwrap_or_default(),
            );
            rows.push(row);
        }
    }
    if !args.json {
        table(&rows).iter().for_each(say);
    }
    Ok(Exit::Good)
}

/// Takes a backend out of the balance, or back in.
pub(crate) async fn drain(args: DrainArgs) -> Result<Exit, Failure> {
    let DrainArgs {
        service,
        address,
        undo,
        ..
    } = &args;
    let order = json!({ "service": service, "address": address, "undo": undo });
    Admin::find(&args.admin)?
        .ask(Method::POST, "/drain", Some(&order))
        .await?;
    if *undo {
        say(format!("{service} {address} gets requests again"));
        return Ok(Exit::Good);
    }
    say(format!(
        "{service} {address} is drained: it gets no balanced requests; what it has goes on, and what `where` sends to it arrives"
    ));
    say(format!(
        "a worker gets no new jobs within 3 s, from hubs that know this gate (gate_admin); `munjigi drain {service} {address} --undo` takes it back"
    ));
    Ok(Exit::Good)
}

/// Gives a backend another weight, or its own again.
pub(crate) async fn weight(args: WeightArgs) -> Result<Exit, Failure> {
    let WeightArgs {
        service,
        address,
        weight,
        ..
    } = &args;
    let order = json!({ "service": service, "address": address, "weight": weight });
    Admin::find(&args.admin)?
        .ask(Method::POST, "/weight", Some(&order))
        .await?;
    say(match weight {
        Some(weight) => format!("{service} {address} has the weight {weight}"),
        None => format!("{service} {address} has its own weight again"),
    });
    Ok(Exit::Good)
}

/// Lists open connections, the oldest first.
pub(crate) async fn connections(args: ConnectionsArgs) -> Result<Exit, Failure> {
    let path = format!(
        "/connections/live?limit={}&tunnels={}",
        args.limit, args.tunnels
    );
    let answer = Admin::find(&args.admin)?
        .ask(Method::GET, &path, None)
        .await?;
    let connections = list(&answer, "connections");
    if args.json {
        connections.iter().for_each(say);
        return Ok(Exit::Good);
    }
    let titles = [
        "LISTENER", "PEER", "AGE", "SILENT", "REQUESTS", "SERVICE", "BACKEND", "RECEIVED", "SENT",
    ];
    let mut rows = vec![titles.map(str::to_owned).to_vec()];
    for connection in connections {
        let mut row = vec![cell(connection, "listener"), cell(connection, "peer")];
        row.extend(["age", "silentFor"].map(|key| seconds(connection, key)));
        row.push(cell(connection, "requests"));
        let tunnel = connection.get("tunnel").cloned().unwrap_or_default();
        row.extend(
            ["service", "backend", "bytesReceived", "bytesSent"].map(|key| cell(&tunnel, key)),
        );
        rows.push(row);
    }
    table(&rows).iter().for_each(say);
    let total = answer
        .get("total")
        .and_then(Value::as_u64)
        .unwrap_or_default();
    if total > connections.len() as u64 {
        say(format!(
            "{} of {total}; --limit shows more",
            connections.len()
        ));
    }
    Ok(Exit::Good)
}

fn seconds(value: &Value, key: &str) -> String {
    let seconds = value.get(key).and_then(Value::as_f64).unwrap_or_default();
    format!("{seconds:.1}s")
}

/// Says who closed WebSockets, and which timers did.
pub(crate) async fn explain_closed(args: ClosedArgs) -> Result<Exit, Failure> {
    let mut answer = Admin::find(&args.admin)?
        .ask(Method::GET, "/websockets", None)
        .await?;
    if let Some(wanted) = &args.route
        && let Some(routes) = answer.get_mut("routes").and_then(Value::as_array_mut)
    {
        routes.retain(|route| cell(route, "route") == *wanted);
        if routes.is_empty() {
            return Err(Failure::no(format!(
                "no WebSocket of a route {wanted} has ended since the gate started"
            )));
        }
    }
    if args.json {
        say(&answer);
        return Ok(Exit::Good);
    }
    let routes = list(&answer, "routes");
    let mut causes = 0;
    for route in routes {
        for cause in list(route, "causes") {
            causes += 1;
            say(format!("{}: {}", cell(route, "route"), cell(cause, "said")));
        }
    }
    if causes == 0 {
        say("no timer shows in how WebSockets ended");
    }
    table(&ends(routes)).iter().for_each(say);
    Ok(Exit::Good)
}

/// The last ends of all routes, the youngest first.
fn ends(routes: &[Value]) -> Vec<Vec<String>> {
    let titles = [
        "AGO", "ROUTE", "BY", "HOW", "CODE", "AFTER", "SILENT", "CLIENT", "BACKEND",
    ];
    let mut ends: Vec<(String, &Value)> = Vec::new();
    for route in routes {
        let name = cell(route, "route");
        ends.extend(list(route, "last").iter().map(|end| (name.clone(), end)));
    }
    if ends.is_empty() {
        return Vec::new();
    }
    let ago = |end: &Value| end.get("ago").and_then(Value::as_f64).unwrap_or_default();
    ends.sort_by(|left, right| ago(left.1).total_cmp(&ago(right.1)));
    let rows = ends.into_iter().map(|(route, end)| {
        let mut row = vec![seconds(end, "ago"), route];
        row.extend(["by", "how", "code"].map(|key| cell(end, key)));
        let times = ["after", "silentFor", "clientSilentFor", "backendSilentFor"];
        row.extend(times.map(|key| seconds(end, key)));
        row
    });
    std::iter::once(titles.map(str::to_owned).to_vec())
        .chain(rows)
        .collect()
}

/// Prints or changes what the program's own log tells.
pub(crate) async fn log_level(args: LogLevelArgs) -> Result<Exit, Failure> {
    let admin = Admin::find(&args.admin)?;
    let answer = match &args.filter {
        Some(filter) => {
            let order = json!({ "filter": filter });
            admin.ask(Method::PUT, "/log-level", Some(&order)).await?
        }
        None => admin.ask(Method::GET, "/log-level", None).await?,
    };
    say(cell(&answer, "filter"));
    Ok(Exit::Good)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let lines = table(&[row(["A", "LONG", ""]), row(["wide", "x", "why"])]);
        assert_eq!(lines, ["A     LONG", "wide  x     why"]);
        assert!(table(&[]).is_empty());
    }

    #[test]
    fn what_comes_from_outside_moves_no_cursor() {
        assert_eq!(cell(&json!({ "why": "a\u{1b}[2Jb\n" }), "why"), "a[2Jb");
        assert_eq!(cell(&json!({ "why": null }), "why"), "-");
        assert_eq!(cell(&json!({ "n": 3 }), "n"), "3");
    }

    #[test]
    fn places_that_are_none_are_refused() {
        assert!(tcp_base("127.0.0.1:9901").is_err());
        assert!(tcp_base("ftp://x").is_err());
        assert_eq!(
            tcp_base("http://127.0.0.1:9901/").ok().as_deref(),
            Some("http://127.0.0.1:9901")
        );
    }
}

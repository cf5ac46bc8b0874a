//! The table of routes against a judge that looks at every route, and what a look-up costs.

use std::time::{Duration, Instant};

use fastrand::Rng;

use super::*;
use crate::conditions::{Source, ValueTest, whole};
use crate::http1::head::HeadLimits;
use crate::settings::ListenerSettings;

fn head(method: &str, target: &str, fields: &str) -> RequestHead {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{fields}\r\n");
    let limits = HeadLimits {
        bytes: 8_192,
        fields: 32,
    };
    RequestHead::parse(text.as_bytes(), limits).unwrap()
}

fn table(routes: Vec<RouteSettings>) -> Routes {
    let local = ([127, 0, 0, 1], 0).into();
    Routes::new(&GateSettings {
        listeners: vec![
            ListenerSettings::new("web", local),
            ListenerSettings::new("inner", local),
        ],
        routes,
        ..GateSettings::default()
    })
}

fn ask(table: &Routes, host: &str, head: &RequestHead) -> Choice {
    let target = String::from_utf8_lossy(head.target()).into_owned();
    let (path, query) = target::split(&target);
    table.find(Question {
        listener: "web",
        host,
        path: &target::normal_path(path),
        query: query.unwrap_or_default(),
        head,
    })
}

/// What makes one fitting route win over another, the greatest first: the words of the contract.
type Rank = (
    (u8, usize),
    (u8, usize, usize),
    usize,
    std::cmp::Reverse<usize>,
);

fn rank(place: usize, route: &RouteSettings, host: &str) -> Rank {
    let by_host = route.hosts.as_ref().map_or((0, 0), |hosts| {
        let fitting = hosts.iter().filter_map(|pattern| match pattern {
            HostPattern::Exact(name) => (name == host).then_some((2, 0)),
            HostPattern::Wildcard(suffix) => (host.len() > suffix.len()
                && host.ends_with(suffix.as_str()))
            .then_some((1, suffix.len())),
        });
        fitting.max().unwrap_or((0, 0))
    });
    let segments = |path: &str| path.split('/').count() - 1;
    let by_path = match &route.path {
        PathPattern::Exact(_) => (3, 0, 0),
        PathPattern::Regex(_) => (2, usize::MAX - place, 0),
        PathPattern::Prefix(prefix) => (1, segments(prefix), segments(prefix)),
        PathPattern::Template(parts) => {
            let texts = parts.iter().filter(|s| matches!(s, Segment::Text(_)));
            (1, parts.len(), texts.count())
        }
    };
    (by_host, by_path, route.demands(), std::cmp::Reverse(place))
}

fn judge(routes: &[RouteSettings], host: &str, question: Question<'_>) -> Choice {
    let fitting: Vec<(usize, &RouteSettings)> = routes
        .iter()
        .enumerate()
        .filter(|(_, route)| {
            route.serves("web")
                && route.fits_host(host)
                && route.path.matches(question.path)
                && route.unmet(question).is_none()
        })
        .collect();
    let best = fitting
        .iter()
        .filter(|(_, route)| route.fits_method(question.head.method()))
        .max_by_key(|(place, route)| rank(*place, route, host));
    match best {
        Some((place, _)) => Choice::Route(*place),
        None if fitting.is_empty() => Choice::None,
        None => {
            let mut allowed: Vec<String> = fitting
                .iter()
                .flat_map(|(_, route)| route.methods.clone().unwrap_or_default())
                .collect();
            if allowed.contains(&"GET".to_owned()) {
                allowed.push("HEAD".to_owned());
            }
            allowed.sort_unstable();
            allowed.dedup();
            Choice::OtherMethods(allowed)
        }
    }
}

fn random_route(random: &mut Rng, place: usize) -> RouteSettings {
    let prefixes = [
        "/", "/a", "/a/b", "/a/b/c", "/b", "/{x}", "/a/{x}", "/{x}/b", "/{x}/{y}",
    ];
    let regexes = ["/a.*", "/[ab]/b", ".*", "/a/b", "/zz"];
    let path = match random.u8(..6) {
        0 => PathPattern::Exact(random.choice(["/a", "/a/b", "/"]).unwrap().to_owned()),
        1 => PathPattern::Regex(whole(random.choice(regexes).unwrap()).unwrap()),
        _ => PathPattern::prefix(random.choice(prefixes).unwrap()).unwrap(),
    };
    let mut route = RouteSettings::new(&format!("r{place}"), path, "S");
    let hosts = ["one.example", "*.example", "*.one.example", "two.example"];
    if random.bool() {
        let count = random.usize(1..=2);
        let hosts = (0..count).map(|_| random.choice(hosts).unwrap().parse().unwrap());
        route.hosts = Some(hosts.collect());
    }
    if random.u8(..3) == 0 {
        route.methods = Some(vec![
            random.choice(["GET", "POST", "PUT"]).unwrap().to_owned(),
        ]);
    }
    if random.u8(..4) == 0 {
        route.listeners = Some(vec![random.choice(["web", "inner"]).unwrap().to_owned()]);
    }
    if random.u8(..4) == 0 {
        route.conditions.push(Condition {
            source: Source::Header("X-Kind".to_owned()),
            test: ValueTest::Exact(random.choice(["1", "2"]).unwrap().to_owned()),
        });
    }
    if random.u8(..4) == 0 {
        route.conditions.push(Condition {
            source: Source::Query("q".to_owned()),
            test: ValueTest::Present(random.bool()),
        });
    }
    route
}

#[test]
fn the_table_chooses_as_one_who_looks_at_every_route() {
    for seed in 1..=400 {
        let mut random = Rng::with_seed(seed);
        let count = random.usize(1..=12);
        let routes: Vec<RouteSettings> = (0..count)
            .map(|place| random_route(&mut random, place))
            .collect();
        let table = table(routes.clone());
        for _ in 0..40 {
            let host = random
                .choice(["one.example", "x.one.example", "two.example", "other"])
                .unwrap();
            let path = random
                .choice([
                    "/",
                    "/a",
                    "/a/",
                    "/a/b",
                    "/a/b/c/d",
                    "/b/b",
                    "/ab",
                    "/c/../a/b",
                    "/%61",
                    "/a//b",
                ])
                .unwrap();
            let query = random.choice(["", "?q", "?q=1&p=2"]).unwrap();
            let method = random.choice(["GET", "HEAD", "POST", "DELETE"]).unwrap();
            let fields = random
                .choice(["", "X-Kind: 1\r\n", "X-Kind: 2\r\n"])
                .unwrap();
            let head = head(method, &format!("{path}{query}"), fields);
            let question = Question {
                listener: "web",
                host,
                path: &target::normal_path(path),
                query: query.trim_start_matches('?'),
                head: &head,
            };
            let (found, expected) = (table.find(question), judge(&routes, host, question));
            assert_eq!(
                found, expected,
                "seed {seed}: {method} {host}{path}{query} {fields}\n{routes:#?}"
            );
            let winner = match found {
                Choice::Route(place) => Some(place),
                _ => None,
            };
            let losers = table.losers(question, winner);
            let all = losers.listener + losers.host + losers.path + losers.named.len();
            assert_eq!(all + usize::from(winner.is_some()), count);
            if winner.is_none() {
                assert!(losers.named.iter().all(|(_, why)| why != "less specific"));
            }
        }
    }
}

#[test]
fn a_path_known_with_other_methods_counts_only_where_the_rest_fits() {
    let route = |method: &str, kind: Option<&str>| {
        let mut route = RouteSettings::new("r", PathPattern::prefix("/a").unwrap(), "S");
        route.methods = Some(vec![method.to_owned()]);
        route.conditions = kind
            .map(|kind| Condition {
                source: Source::Header("X-Kind".to_owned()),
                test: ValueTest::Exact(kind.to_owned()),
            })
            .into_iter()
            .collect();
        route
    };
    let table = table(vec![route("POST", None), route("PUT", Some("1"))]);
    let methods = |names: &[&str]| {
        Choice::OtherMethods(names.iter().map(|name| (*name).to_owned()).collect())
    };
    let check = |fields: &str, expected: Choice| {
        assert_eq!(ask(&table, "x", &head("GET", "/a", fields)), expected);
    };
    check("", methods(&["POST"]));
    check("X-Kind: 1\r\n", methods(&["POST", "PUT"]));
    assert_eq!(ask(&table, "x", &head("GET", "/b", "")), Choice::None);
}

/// The least that 50 look-ups took in each table. The tables take turns in many rounds, each short beside what else the
/// machine does: that meets all of them, and leaves each of them some rounds alone.
fn least_costs(tables: &[(Routes, Vec<RequestHead>)]) -> Vec<Duration> {
    let mut least = vec![Duration::MAX; tables.len()];
    for first in (0..1_000).step_by(50).cycle().take(600) {
        for ((table, requests), least) in tables.iter().zip(&mut least) {
            let start = Instant::now();
            for head in &requests[first..first + 50] {
                assert_ne!(ask(table, "www.example", head), Choice::None);
            }
            *least = start.elapsed().min(*least);
        }
    }
    least
}

#[test]
fn a_lookup_costs_the_same_with_one_route_and_with_ten_thousand() {
    type Make = fn(usize) -> RouteSettings;
    let kinds: [(&str, Make); 5] = [
        ("prefix", |n| {
            let path = PathPattern::prefix(&format!("/r{n}/api")).unwrap();
            RouteSettings::new("r", path, "S")
        }),
        ("exact", |n| {
            RouteSettings::new("r", PathPattern::Exact(format!("/r{n}/api/x")), "S")
        }),
        ("template", |n| {
            let path = PathPattern::prefix(&format!("/r{n}/{{kind}}")).unwrap();
            RouteSettings::new("r", path, "S")
        }),
        ("regex", |n| {
            let path = PathPattern::Regex(whole(&format!("/r{n}/[a-z]+/x")).unwrap());
            RouteSettings::new("r", path, "S")
        }),
        ("host", |n| {
            let mut route = RouteSettings::new("r", PathPattern::prefix("/").unwrap(), "S");
            route.hosts = Some(vec![if n == 0 {
                "*.example".parse().unwrap()
            } else {
                format!("h{n}.example").parse().unwrap()
            }]);
            route
        }),
    ];
    for (kind, make) in kinds {
        let tables = [1, 1_000, 10_000].map(|count| {
            let asked = |n: usize| head("GET", &format!("/r{}/api/x", n * 7 % count), "");
            let routes = (0..count).map(make).collect();
            (table(routes), (0..1_000).map(asked).collect())
        });
        let costs = least_costs(&tables);
        println!("{kind}: 50 look-ups among 1, 1,000 and 10,000 routes took {costs:?}");
        assert!(costs[2] < costs[0] * 4, "{kind}: {costs:?}");
    }
}

//! Whatever a request says, a route that rewrites, redirects, changes fields or serves files makes one head of it, for the
//! backend or for the client, and sends nobody to another host.
#![no_main]

use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use munjigi_gate::Snapshot;
use munjigi_gate::explain::{self, Outcome};
use munjigi_gate::http1::head::{HeadLimits, RequestHead, ResponseHead, find_end};
use munjigi_gate::settings::{
    Action, BackendSettings, Compression, Condition, DiscoverySettings, FilesSettings,
    GateSettings, HeaderRules, ListenerSettings, PathPattern, Redirect, Rewrite, RouteSettings,
    ServiceSettings, Source, Template, ValueTest,
};

const LIMITS: HeadLimits = HeadLimits {
    bytes: 32 * 1024,
    fields: 100,
};
/// What we write may be longer than what we read.
const WRITTEN: HeadLimits = HeadLimits {
    bytes: 1 << 20,
    fields: 256,
};

struct World {
    snapshot: Snapshot,
    _folder: tempfile::TempDir,
}

fn route(path: &str) -> RouteSettings {
    RouteSettings::new(path, PathPattern::prefix(path).expect("a path"), "APP")
}

fn redirect(path: &str, location: &str) -> RouteSettings {
    let mut route = route(path);
    let location = Template::parse(location, Some(&route.path)).expect("a location");
    route.action = Action::Redirect(Redirect {
        status: 308,
        absolute: location.start().contains("://"),
        location,
    });
    route
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("a.txt"), "a file").expect("a file");
    std::fs::write(folder.path().join("a.txt.gz"), "gz").expect("a file");
    let mut strip = route("/s");
    strip.rewrite = Some(Rewrite::Prefix(String::new()));
    strip.compression = Some(Arc::new(Compression::default()));
    let mut fill = route("/f/{x}");
    let template = |text: &str| Template::parse(text, Some(&fill.path)).expect("a template");
    let rules = |text: &str| {
        let set = vec![("X-Set".to_owned(), template(text))];
        Some(Arc::new(HeaderRules::new(
            vec!["X-Gone".to_owned()],
            set,
            Vec::new(),
        )))
    };
    let (request, response) = (
        rules("{x} {path} {rest}"),
        rules("{host} {query} {client_ip}"),
    );
    fill.rewrite = Some(Rewrite::Path(template("/to/{x}{rest}")));
    (fill.request_headers, fill.response_headers) = (request, response);
    let mut files = route("/w");
    files.rewrite = Some(Rewrite::Prefix(String::new()));
    files.action = Action::Files(Arc::new(FilesSettings {
        root: folder.path().to_owned(),
        index: vec!["a.txt".to_owned()],
        spa: true,
        precompressed: munjigi_gate::settings::Coding::ALL.to_vec(),
        cache_control: None,
    }));
    let mut asking = route("/");
    asking.conditions = vec![
        Condition {
            source: Source::Query("q".to_owned()),
            test: ValueTest::regex("[a-z]+").expect("an expression"),
        },
        Condition {
            source: Source::Header("X-Kind".to_owned()),
            test: ValueTest::Prefix("1".to_owned()),
        },
    ];
    let mut settings = GateSettings {
        listeners: vec![ListenerSettings::new("web", ([127, 0, 0, 1], 0).into())],
        routes: vec![
            strip,
            fill,
            files,
            asking,
            route("/"),
            redirect("/r", "{rest}{query}"),
            redirect("/q/{x}", "{rest}{x}"),
            redirect("/h", "https://example.com{path}{query}"),
        ],
        ..GateSettings::default()
    };
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], 1)).into();
    let backend = BackendSettings::new(address);
    let service = ServiceSettings {
        discovery: DiscoverySettings::Static(vec![backend]),
        ..ServiceSettings::default()
    };
    settings.services.insert("APP".to_owned(), service);
    World {
        snapshot: explain::snapshot(settings),
        _folder: folder,
    }
});

fn check_answer(head: &str, method: &[u8]) {
    let bytes = head.as_bytes();
    assert_eq!(
        find_end(bytes, 0, WRITTEN),
        Ok(Some(bytes.len())),
        "one head, not two: {head}"
    );
    ResponseHead::parse(bytes, method, WRITTEN).expect("what we write is valid");
    for line in head
        .lines()
        .filter_map(|line| line.strip_prefix("Location: "))
    {
        let here = line.starts_with('/') && !line.starts_with("//") && !line.starts_with("/\\");
        let there = line
            .strip_prefix("https://example.com")
            .is_some_and(|rest| rest.starts_with('/'));
        assert!(here || there, "{line}");
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(Some(end)) = find_end(bytes, 0, LIMITS) else {
        return;
    };
    let bytes = &bytes[..end];
    let explained = explain::head(&WORLD.snapshot, bytes, [192, 0, 2, 1].into(), None);
    match explained.outcome {
        Outcome::Forward { head, .. } => {
            let bytes = head.as_bytes();
            assert_eq!(
                find_end(bytes, 0, WRITTEN),
                Ok(Some(bytes.len())),
                "one head, not two: {head}"
            );
            // Bytes that are no UTF-8 are shown in another form, which may be longer.
            RequestHead::parse(bytes, WRITTEN).expect("what we write is valid");
        }
        Outcome::Answer { head, .. } => {
            let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
            check_answer(&head, method);
        }
        Outcome::Unknown => panic!("the backend is known"),
    }
});

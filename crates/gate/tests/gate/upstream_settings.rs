//! What settings of backends contradict themselves, and what is said about it.

use crate::control::read;

const START: &str = "[gate]\n[[gate.listener]]\nname = \"web\"\naddress = \"127.0.0.1:0\"\n";

fn with(route: &str, service: &str) -> String {
    format!(
        "{START}[[gate.route]]\npath = \"/\"\nservice = \"APP\"\n{route}\n[gate.service.APP]\n{service}\n"
    )
}

const NONE: &str = "munjigi.toml: 0 errors, 0 warnings\n";
const TWO: &str = "backends = [ { address = \"127.0.0.1:1\" }, { address = \"127.0.0.1:2\" } ]\n";

#[test]
fn all_keys_are_read() {
    let route = r#"
        retry = { attempts = 3, on = ["connect", "502", "503", "504", "timeout", "reset"], body_max = "16KiB", budget = 0.1, budget_min = 5 }
        hedge = { after = "200ms" }"#;
    let service = r#"
        balance = "consistent_hash"
        hash = "header.X-Key"
        sticky = { cookie = "munjigi" }
        health = { http = "/health", method = "HEAD", host = "app", status = ["200", "300-302"], port = 81, interval = "1s", timeout = "500ms", rise = 1, fall = 2 }
        ejection = { consecutive_failures = 2, for = "1m", at_most = 1 }
        slow_start = "10s"
        limit = { requests = 10, queue = 0, wait = "1s" }
        breaker = { failures = 0.9, requests_min = 3, within = "1m", for = "2s" }
        panic_below = 0.3
        backends = [ { address = "127.0.0.1:1", weight = 2 }, { address = "127.0.0.1:2", backup = true, priority = 3, zone = "b" } ]"#;
    let (settings, problems) = read(&with(route, service));
    assert_eq!(problems, NONE);
    let settings = settings.unwrap();
    insta::assert_debug_snapshot!((
        &settings.routes[0].retry,
        &settings.routes[0].hedge_after,
        &settings.services["APP"]
    ));
    for probe in ["tcp = true", "icmp = true", "grpc = \"\"", "grpc = \"a.B\""] {
        let (_, problems) = read(&with("", &format!("health = {{ {probe} }}\n{TWO}")));
        assert_eq!(problems, NONE, "{probe}");
    }
    for balance in munjigi_gate::settings::Balance::ALL {
        let (_, problems) = read(&with("", &format!("balance = \"{balance}\"\n{TWO}")));
        assert_eq!(problems, NONE);
    }
}

#[test]
fn what_contradicts_itself_is_said() {
    let cases = [
        ("", "hash = \"path\""),
        ("", "balance = \"consistent_hash\"\nhash = \"luck\""),
        ("", "balance = \"fastest\""),
        ("", "sticky = { cookie = \"a b\" }"),
        ("", "sticky = {}"),
        ("", "health = { interval = \"1s\" }"),
        ("", "health = { http = \"/\", tcp = true }"),
        ("", "health = { tcp = true, host = \"x\" }"),
        (
            "",
            "health = { http = \"health\", method = \"POST\", status = [\"2xx\"] }",
        ),
        ("", "health = { icmp = true, port = 80 }"),
        ("", "ejection = { at_most = 0.4 }"),
        ("", "ejection = { at_most = 2 }"),
        ("", "limit = { queue = 5 }"),
        ("", "panic_below = 0.5"),
        ("retry = { attempts = 1, on = [\"503\"] }", ""),
        ("retry = { body_max = \"1KiB\" }", ""),
        ("method = [\"POST\"]\nretry = { on = [\"503\"] }", ""),
        ("retry = { attempts = 1 }\nhedge = { after = \"1s\" }", ""),
        (
            "timeout = { response = \"1s\" }\nhedge = { after = \"2s\" }",
            "",
        ),
        ("hedge = {}", ""),
    ];
    let mut all = String::new();
    for (route, service) in cases {
        let (_, problems) = read(&with(route, &format!("{service}\n{TWO}")));
        assert_ne!(problems, NONE, "{route}{service}");
        all.push_str(&problems);
        all.push_str("\n\n");
    }
    let backups = "backends = [ { address = \"127.0.0.1:1\", backup = true } ]";
    all.push_str(&read(&with("", backups)).1);
    insta::assert_snapshot!(all);
}

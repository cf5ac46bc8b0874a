//! Settings as written (TOML with spans) → as meant. All problems are collected and shown at once, each with file,
//! line, caret and hint.
//!
//! A role declares each of its tables as a [`Schema`]: the keys, their defaults, limits and meanings. Reading goes
//! through [`Table`], which knows the schema: a key that is not declared can't be read, a declared key that is not
//! read fails the role's own test ([`Table::unread`]), unknown keys are problems with "did you mean", and
//! `munjigi settings` prints the same declarations.

mod document;
mod problem;
mod schema;
mod table;
mod types;

pub use document::{Document, Environment};
pub use problem::{Excerpt, Problem, Problems, Severity};
pub use schema::{Key, Schema};
pub use table::{Item, Table};
pub use types::{HostPort, Rate, Secret, Setting, Size, format_duration, parse_duration};

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    static ROOT: Schema = Schema {
        place: "the settings file",
        meaning: "",
        keys: &[
            Key::new("name", "text", "", "", "what it is called"),
            Key::new("wait", "duration", "5s", "1s to 1m", "how long it waits"),
            Key::new("peers", "list of addresses", "[]", "", "whom it asks"),
            Key::new("mode", "text", "\"fast\"", "", "how it works"),
            Key::new("route", "tables", "", "", "routes"),
            Key::later("gossip", "tells its neighbours"),
        ],
    };
    static ROUTE: Schema = Schema {
        place: "[[route]]",
        meaning: "",
        keys: &[Key::new("path", "text", "", "", "a prefix of the path")],
    };

    #[derive(Debug)]
    struct Read {
        name: String,
        wait: Duration,
        routes: usize,
    }

    fn read(table: &Table<'_>) -> Option<Read> {
        let name = table.required("name");
        let limits = Duration::from_secs(1)..=Duration::from_secs(60);
        let wait = table.duration("wait", Duration::from_secs(5), limits);
        let peers = table.list::<HostPort>("peers");
        let mode = table.choice("mode", 1, &[("fast", 1), ("slow", 2)]);
        let routes = table.tables("route", &ROUTE);
        for route in &routes {
            drop(route.required::<String>("path"));
        }
        assert_eq!(table.unread(), Vec::<&str>::new());
        assert!((1..=2).contains(&mode) && peers.is_none_or(|peers| peers.len() < 9));
        Some(Read {
            name: name?,
            wait,
            routes: routes.len(),
        })
    }

    fn document(text: &str) -> Document {
        Document::new("munjigi.toml".as_ref(), text.to_owned(), Environment::new())
    }

    #[test]
    fn a_good_file_reads() {
        let (read, problems) =
            document("name = 'a'\nwait = '2s'\n[[route]]\npath = '/'\n").read(&ROOT, read);
        let read = read.unwrap();
        assert_eq!(
            (read.name.as_str(), read.wait.as_secs(), read.routes),
            ("a", 2, 1)
        );
        assert!(problems.is_empty());
    }

    #[test]
    fn all_problems_are_shown_at_once() {
        let document = document(
            "nam = \"a\"\nwait = \"2h\"\npeers = [\"10.0.0.1:80\", \"10.0.0.1\", 7]\nmode = \"fsat\"\ngossip = true\n\n[[route]]\npth = 1\n",
        );
        let (read, problems) = document.read(&ROOT, read);
        assert!(read.is_none());
        insta::assert_snapshot!(document.render(&problems, false));
    }

    #[test]
    fn a_broken_line_has_no_consequences() {
        for (text, expected) in [
            // What is missing may be on the broken line; what is wrong elsewhere is said all the same.
            ("name = \nmode = 'fsat'\n", &["1", "2 `mode` can't be"][..]),
            (
                "name = 'a'\n[[route\npath = '/'\npth = 1\n[[route]]\npth = 1\n",
                &["2", "6 unknown key `pth`"],
            ),
            (
                "wait = '2h'\n[[route]]\npath = '/\n",
                &["1 `wait` must lie", "3"],
            ),
        ] {
            let document = document(text);
            let (read, problems) = document.read(&ROOT, read);
            assert!(read.is_none());
            let lines = problems
                .iter()
                .map(|problem| format!("{} {}", problem.line(text).unwrap_or(0), problem.message));
            let lines: Vec<_> = lines.collect();
            assert_eq!(lines.len(), expected.len(), "{lines:#?}");
            for (line, expected) in lines.iter().zip(expected) {
                assert!(line.starts_with(expected), "{lines:#?}");
            }
        }
    }

    #[test]
    fn a_number_outside_its_range_is_told_the_range_of_its_key() {
        static SIZES: Schema = Schema {
            place: "the settings file",
            meaning: "",
            keys: &[
                Key::new("most", "number", "8", "1 to 64", ""),
                Key::new("share", "number", "0.5", "0.0 to 1.0", ""),
                Key::new("any", "number", "0", "", ""),
            ],
        };
        let text = "most = -1\nshare = -2\nany = -3\n";
        let (_, problems) = document(text).read(&SIZES, |table| {
            let most = table.within::<u64>("most", 8, 1..=64);
            let share = table.within("share", 0.5, 0.0..=1.0);
            Some((most, share, table.get::<u64>("any")))
        });
        let said: Vec<_> = problems
            .iter()
            .map(|problem| problem.in_one_line("a.toml", text))
            .collect();
        assert_eq!(
            said,
            [
                "a.toml:1: `most` is -1, it must lie between 1 and 64",
                "a.toml:2: `share` is -2, it must lie between 0 and 1",
                "a.toml:3: `any`: -3 is less than 0 (hint: write a whole number)",
            ]
        );
        for (text, said) in [
            (
                "most = 18446744073709551616\n",
                "`most` is 18446744073709551616, it must",
            ),
            ("most = 'x'\n", "`most`: expected a whole number"),
            (
                "any = 18446744073709551616\n",
                "`any`: 18446744073709551616 is more than 18446744073709551615",
            ),
        ] {
            let (_, problems) = document(text).read(&SIZES, |table| {
                let most = table.within::<u64>("most", 8, 1..=64);
                Some((most, table.get::<u64>("any")))
            });
            assert!(
                problems[0].message.starts_with(said),
                "{}",
                problems[0].message
            );
        }
    }

    #[test]
    fn a_broken_file_says_where() {
        let document = document("name = \nwait = \"5s\n");
        let (read, problems) = document.read(&ROOT, read);
        assert!(read.is_none());
        insta::assert_snapshot!(document.render(&problems, false));
    }
}

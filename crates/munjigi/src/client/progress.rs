//! How far an upload is: on a terminal one line that moves, elsewhere a line now and then. All of it on standard error.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Where nobody sees a line move, one is printed this often.
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Rate and time left mean nothing before.
const RATE_AFTER: Duration = Duration::from_secs(1);
/// A line that moves is drawn anew this often, also while nothing moves.
const TICK: Duration = Duration::from_millis(250);
/// Of a name that is longer the middle is left out.
const NAME_MAX: usize = 24;
const BAR: usize = 24;
/// Where the width of a terminal can't be had.
const WIDTH: usize = 80;

/// How far it is. Cheap to clone.
#[derive(Clone)]
pub(super) struct Progress {
    bar: ProgressBar,
    name: Arc<str>,
    /// Tries in a row that failed.
    failures: Arc<AtomicU32>,
    /// When a plain line was printed last; `None` on a terminal.
    plain: Option<Arc<Mutex<Plain>>>,
}

struct Plain {
    last: Instant,
    said: bool,
}

impl Progress {
    /// Of `total` bytes, `done` have arrived in an earlier run.
    pub(super) fn new(name: &str, total: u64, done: u64) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let target = if terminal {
            ProgressDrawTarget::stderr_with_hz(5)
        } else {
            ProgressDrawTarget::hidden()
        };
        let bar = ProgressBar::with_draw_target(Some(total), target);
        let failures = Arc::new(AtomicU32::new(0));
        let name: Arc<str> = name.into();
        let (shown, tries) = (Arc::clone(&name), Arc::clone(&failures));
        let line = move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            let figures = Figures {
                name: &shown,
                done: state.pos(),
                total,
                rate: (state.elapsed() >= RATE_AFTER).then(|| state.per_sec()),
                failures: tries.load(Ordering::Relaxed),
            };
            // Only a line without room fails, and there is no other place to say so.
            out.write_str(&figures.line(width())).unwrap_or_default();
        };
        let style =
            ProgressStyle::with_template("{line}").unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style.with_key("line", line));
        bar.set_position(done);
        // Rate and time left count from what is sent now, not from what an earlier run sent.
        bar.reset_eta();
        if terminal {
            bar.enable_steady_tick(TICK);
        }
        let plain = Plain {
            last: Instant::now(),
            said: false,
        };
        Self {
            bar,
            name,
            failures,
            plain: (!terminal).then(|| Arc::new(Mutex::new(plain))),
        }
    }

    /// So many more bytes are on their way.
    pub(super) fn sent(&self, bytes: u64) {
        self.bar.inc(bytes);
        self.tell(false);
    }

    /// So many bytes have arrived, and `failures` tries in a row have failed since.
    pub(super) fn arrived(&self, bytes: u64, failures: u32) {
        self.failures.store(failures, Ordering::Relaxed);
        self.bar.set_position(bytes);
        self.tell(false);
    }

    /// Everything has arrived.
    pub(super) fn finish(&self) {
        let total = self.bar.length().unwrap_or(0);
        self.arrived(total, 0);
        let took = self.bar.elapsed();
        self.bar.finish_and_clear();
        match &self.plain {
            Some(_) => self.tell(true),
            None => print(&format!(
                "{}  100 %  {}  in {:.1} s",
                middle_out(&self.name, NAME_MAX),
                HumanBytes(total),
                took.as_secs_f64()
            )),
        }
    }

    /// A plain line when it is time for one; `end` prints the last one, unless nothing was printed before.
    fn tell(&self, end: bool) {
        let Some(plain) = &self.plain else { return };
        let mut plain = plain.lock().unwrap_or_else(PoisonError::into_inner);
        if if end {
            !plain.said
        } else {
            plain.last.elapsed() < PLAIN_EVERY
        } {
            return;
        }
        (plain.last, plain.said) = (Instant::now(), true);
        let figures = Figures {
            name: &self.name,
            done: self.bar.position(),
            total: self.bar.length().unwrap_or(0),
            rate: (!end).then(|| self.bar.per_sec()),
            failures: self.failures.load(Ordering::Relaxed),
        };
        print(&figures.parts().join("  "));
    }
}

fn print(line: &str) {
    drop(writeln!(std::io::stderr().lock(), "{line}"));
}

/// The terminal's width now: it may have changed.
fn width() -> usize {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .map_or(WIDTH, |size| usize::from(size.ws_col).max(1))
}

/// What a line is made from.
struct Figures<'a> {
    name: &'a str,
    done: u64,
    total: u64,
    /// Bytes in a second, smoothed; unknown at first.
    rate: Option<f64>,
    failures: u32,
}

impl Figures<'_> {
    /// The line that says most within `width` columns. Its last column stays free: some terminals wrap there.
    fn line(&self, width: usize) -> String {
        let [name, percent, bytes, rate, left] = &self.parts();
        let bar = self.bar();
        let choices: [&[&str]; 6] = [
            &[name, &bar, percent, bytes, rate, left],
            &[name, percent, bytes, rate, left],
            &[name, percent, rate, left],
            &[percent, rate, left],
            &[percent, left],
            &[percent],
        ];
        let lines = choices.iter().map(|parts| {
            let filled: Vec<&str> = parts
                .iter()
                .copied()
                .filter(|part| !part.is_empty())
                .collect();
            filled.join("  ")
        });
        let mut lines = lines.filter(|line| columns(line) < width);
        lines.next().unwrap_or_default()
    }

    /// Name, percent, bytes, rate and time left, each of a width that does not change with its figure.
    fn parts(&self) -> [String; 5] {
        let percent = (u128::from(self.done) * 100)
            .checked_div(u128::from(self.total))
            .unwrap_or(100)
            .min(100);
        let (rate, left) = match self.rate {
            _ if self.failures > 0 => (format!("reconnecting ({})", self.failures), String::new()),
            Some(rate) if rate >= 1.0 => (
                format!("{:>12}", format!("{}/s", HumanBytes(whole(rate)))),
                format!(
                    "{} left",
                    seconds(self.total.saturating_sub(self.done), rate)
                ),
            ),
            _ => (String::new(), String::new()),
        };
        [
            middle_out(self.name, NAME_MAX),
            format!("{percent:>3} %"),
            format!(
                "{:>10} of {}",
                HumanBytes(self.done.min(self.total)).to_string(),
                HumanBytes(self.total)
            ),
            rate,
            left,
        ]
    }

    fn bar(&self) -> String {
        let filled = (u128::from(self.done) * BAR as u128)
            .checked_div(u128::from(self.total))
            .and_then(|filled| usize::try_from(filled).ok())
            .map_or(BAR, |filled| filled.min(BAR));
        format!("{}{}", "█".repeat(filled), "░".repeat(BAR - filled))
    }
}

/// Columns of a terminal that `text` takes at most: Korean, Chinese and Japanese letters and emoji take two.
fn columns(text: &str) -> usize {
    let narrow = |c: char| c < '\u{1100}' || ('\u{2000}'..='\u{25ff}').contains(&c);
    text.chars().map(|c| if narrow(c) { 1 } else { 2 }).sum()
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a rate for a reader: casts saturate"
)]
fn whole(rate: f64) -> u64 {
    rate as u64
}

/// How long `bytes` take at `rate`: `  9 s`, ` 12 min`, `  3 h`.
fn seconds(bytes: u64, rate: f64) -> String {
    let seconds = bytes.checked_div(whole(rate)).unwrap_or(0);
    match seconds {
        0..=119 => format!("{seconds:>3} s"),
        120..=7_199 => format!("{:>3} min", seconds / 60),
        _ => format!("{:>3} h", seconds / 3_600),
    }
}

/// `text` in at most `most` characters: of a longer one the middle goes, since names differ at their ends.
fn middle_out(text: &str, most: usize) -> String {
    let all: Vec<char> = super::screen::printable(text).chars().collect();
    if all.len() <= most {
        return all.into_iter().collect();
    }
    let head = most / 2;
    let tail = all.len() - (most - head - 1);
    let (head, tail) = (all.get(..head), all.get(tail..));
    let parts = [head.unwrap_or_default(), &['…'], tail.unwrap_or_default()];
    parts.concat().into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(name: &str, done: u64, rate: Option<f64>) -> Figures<'_> {
        Figures {
            name,
            done,
            total: 64 << 20,
            rate,
            failures: 0,
        }
    }

    #[test]
    fn a_line_says_what_its_terminal_has_room_for() {
        let half = figures("app.zip", 32 << 20, Some(4_194_304.0));
        for (width, expected) in [
            (
                120,
                "app.zip  ████████████░░░░░░░░░░░░   50 %   32.00 MiB of 64.00 MiB    4.00 MiB/s    8 s left",
            ),
            (
                70,
                "app.zip   50 %   32.00 MiB of 64.00 MiB    4.00 MiB/s    8 s left",
            ),
            (50, "app.zip   50 %    4.00 MiB/s    8 s left"),
            (35, " 50 %    4.00 MiB/s    8 s left"),
            (20, " 50 %    8 s left"),
            (10, " 50 %"),
            (3, ""),
        ] {
            assert_eq!(half.line(width), expected, "{width}");
        }
    }

    #[test]
    fn no_line_is_wider_than_its_terminal() {
        let long = "a-name-that-is-much-longer-than-any-terminal-has-room-for.tar.gz";
        assert_eq!(columns("소스.zip █…"), 11);
        for (name, width) in (1..160).flat_map(|width| [(long, width), ("소스코드묶음.zip", width)])
        {
            for done in [0, 1, 63 << 20, 64 << 20, 65 << 20] {
                for rate in [None, Some(0.0), Some(1.0), Some(f64::MAX)] {
                    let mut figures = figures(name, done, rate);
                    assert!(columns(&figures.line(width)) < width);
                    figures.failures = 3;
                    assert!(columns(&figures.line(width)) < width);
                }
            }
        }
        assert_eq!(middle_out(long, 11), "a-nam…ar.gz");
        assert_eq!(middle_out("a\u{1b}[2J", 24), "a\u{fffd}[2J");
    }

    #[test]
    fn a_hundred_percent_is_all_of_it() {
        let percent = |done| figures("a", done, None).parts()[1].clone();
        assert_eq!(percent(0), "  0 %");
        assert_eq!(percent((64 << 20) - 1), " 99 %");
        assert_eq!(percent(64 << 20), "100 %");
        assert_eq!(percent(65 << 20), "100 %");
    }

    #[test]
    fn columns_stand_still() {
        let widths = [(1 << 20, 900.0), (9 << 20, 1e6), (60 << 20, 1e8)].map(|(done, rate)| {
            let parts = figures("app.zip", done, Some(rate)).parts();
            [1, 2, 3].map(|part: usize| parts[part].chars().count())
        });
        assert!(widths.iter().all(|each| *each == widths[0]), "{widths:?}");
    }

    #[test]
    fn time_left_is_short() {
        for (bytes, rate, expected) in [
            (100, 10.0, " 10 s"),
            (1_200, 10.0, "  2 min"),
            (1 << 40, 1e6, "305 h"),
            (5, 0.0, "  0 s"),
        ] {
            assert_eq!(seconds(bytes, rate), expected);
        }
    }
}

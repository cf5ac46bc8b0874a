//! When a request may be sent again, and what that needs: the budget, and small bodies read as a
//! whole.

use std::future::poll_fn;
use std::time::{Duration, Instant};

use crate::connection::Connection;
use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::tcp::TcpStream;
use crate::driver::timer::Timer;
use crate::http1::Framing;
use crate::http1::head::RequestHead;
use crate::meter::Meter;
use crate::pipeline::Stop;
use crate::reason::{Reason, Rejection};
use crate::relay::{self, Patience};
use crate::settings::{RetryOn, RetrySettings, RouteSettings};

/// How long what happened counts in the budget: after it, about a third of it is left.
const MEMORY: Duration = Duration::from_secs(10);

/// Further tries are a share of the requests of some ten seconds. Pure: it is given the time.
#[derive(Debug)]
pub(crate) struct Budget {
    at: Instant,
    /// The service's count of choices at that time.
    seen: usize,
    requests: f64,
    tries: f64,
}

impl Budget {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            at: now,
            seen: 0,
            requests: 0.0,
            tries: 0.0,
        }
    }

    /// One more try, if it is within the budget. `count` is how many requests and tries the
    /// service ever had.
    pub(crate) fn spend(&mut self, count: usize, settings: &RetrySettings, now: Instant) -> bool {
        let past = now.saturating_duration_since(self.at).as_secs_f64() / MEMORY.as_secs_f64();
        let left = (-past).exp();
        let new = count.wrapping_sub(self.seen) as f64;
        // What came meanwhile is taken as spread evenly.
        let fresh = if past > 0.0 { (1.0 - left) / past } else { 1.0 };
        self.requests = self.requests * left + new * fresh;
        self.tries *= left;
        self.at = now;
        self.seen = count;
        let most = (self.requests * settings.budget.value()).max(f64::from(settings.budget_min));
        // What fades never reaches the whole number that it stands for.
        let allowed = self.tries + 1.0 <= most + 0.001;
        if allowed {
            self.tries += 1.0;
        }
        allowed
    }
}

/// What a failed try was, for `retry.on`; `None` for what is never tried again.
pub(crate) fn kind(reason: Reason) -> Option<RetryOn> {
    match reason {
        // No byte of the request was sent.
        Reason::ConnectFailed
        | Reason::ConnectTimeout
        | Reason::BackendTlsFailed
        | Reason::BackendCertificate => Some(RetryOn::CONNECT),
        Reason::BackendClosed => Some(RetryOn::RESET),
        Reason::ResponseTimeout => Some(RetryOn::TIMEOUT),
        _ => None,
    }
}

/// The length of a body that is to be read as a whole: where the route asks for it, and the
/// request could be sent again with it.
pub(crate) fn gathers(head: &RequestHead, settings: &RouteSettings) -> Option<usize> {
    let retry = &settings.retry;
    let Framing::Length(length) = head.framing else {
        return None;
    };
    let wanted = retry.attempts > 1 && retry.on != RetryOn::CONNECT && head.is_idempotent();
    let small = length > 0 && length <= retry.body_max as u64;
    if !wanted || !small || head.expects_continue() {
        return None;
    }
    usize::try_from(length).ok()
}

/// Reads a small body as a whole.
pub(crate) async fn gather(
    connection: &mut Connection,
    head: &RequestHead,
    settings: &RouteSettings,
) -> Result<Option<Vec<u8>>, Stop> {
    let Some(length) = gathers(head, settings) else {
        return Ok(None);
    };
    let mut body = Vec::with_capacity(length);
    let core = connection.stream.core().clone();
    let timer = Timer::new(&core);
    let mut patience = match settings.timeout.rate_min {
        Some(rate) => Patience::Rate(Meter::new(rate)),
        None => Patience::Endless,
    };
    let mut buffer = connection.leftover.take();
    loop {
        if let Some(mut read) = buffer.take() {
            let part = read.filled().len().min(length - body.len());
            body.extend_from_slice(read.filled().get(..part).unwrap_or_default());
            read.consume(part);
            if let Patience::Rate(meter) = &mut patience {
                meter.received(part as u64);
            }
            if body.len() == length {
                connection.leftover = Some(read).filter(|rest| !rest.is_empty());
                return Ok(Some(body));
            }
        }
        let stream = &connection.stream;
        let ready = relay::wait(
            &mut patience,
            &timer,
            &core,
            &None::<&TcpStream>,
            |context| stream.poll_readable(context),
        );
        ready.await.map_err(|relay::Exhausted| {
            let detail = "the body arrived slower than `rate_min` allows";
            Rejection::new(Reason::RequestTooSlow, detail)
        })?;
        let mut next = Buffer::new(&core, SMALL);
        let read = poll_fn(|context| {
            let read = stream.poll_read(context, next.spare());
            std::task::Poll::Ready(read)
        });
        match read.await {
            std::task::Poll::Pending => {}
            std::task::Poll::Ready(Ok(count)) if count > 0 => {
                next.fill(count);
                buffer = Some(next);
            }
            std::task::Poll::Ready(_) => {
                let detail = "the connection ended in the middle of the body";
                return Err(Rejection::new(Reason::RequestCut, detail).into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::Chance;
    use crate::settings::Share;

    #[test]
    fn a_budget_allows_its_share_and_a_few_whatever_comes() {
        for seed in 1..30 {
            let chance = Chance::seeded(seed * 31_337);
            let settings = RetrySettings {
                budget: Share::new(0.2),
                budget_min: u32::try_from(chance.below(20)).unwrap(),
                ..RetrySettings::default()
            };
            let mut now = Instant::now();
            let mut budget = Budget::new(now);
            let (mut requests, mut tries) = (0_usize, 0_usize);
            // Everything fails, for a hundred seconds at some 100 requests a second.
            while requests < 10_000 {
                now += Duration::from_millis(chance.below(20) as u64);
                requests += 1;
                if budget.spend(requests, &settings, now) {
                    tries += 1;
                }
            }
            assert!(
                tries <= 2_000 + 10 * 20 + 20,
                "seed {seed}: {tries} of {requests}"
            );
            assert!(tries >= 1_800, "seed {seed}: {tries} of {requests}");
        }
    }

    #[test]
    fn without_a_share_the_minimum_is_left_and_comes_back_with_time() {
        let settings = RetrySettings {
            budget: Share::new(0.0),
            budget_min: 3,
            ..RetrySettings::default()
        };
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut spend =
            |seconds| budget.spend(1_000, &settings, start + Duration::from_secs(seconds));
        assert!(spend(0) && spend(0) && spend(0) && !spend(0));
        assert!(!spend(1));
        assert!(spend(10));
        assert!(spend(100) && spend(100) && spend(100) && !spend(100));
    }
}

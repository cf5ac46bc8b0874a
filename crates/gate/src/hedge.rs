//! A second backend is asked when the first has not answered for a while; who answers first
//! counts. For GET and HEAD alone: asking twice changes nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::driver::buffer::{Buffer, SMALL};
use crate::driver::timer::Timer;
use crate::forward::{self, Waiter};
use crate::http1::Framing;
use crate::http1::head::RequestHead;
use crate::pipeline::Stop;
use crate::reach::{Search, Upstream};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience};
use crate::service::Outcome;

/// True for requests that may be asked twice.
pub(crate) fn fits(head: &RequestHead) -> bool {
    matches!(head.method(), b"GET" | b"HEAD")
        && head.framing == Framing::None
        && head.upgrade().is_none()
}

/// Who answered first.
enum First {
    One,
    Two(Upstream),
    /// It failed, and there is no second one.
    Alone,
    ClientGone,
    Nobody,
}

/// Sends the request to `first`, and to another backend when nothing came back for `after`.
/// Returns the one that answers, and whether the request is on its way there.
pub(crate) async fn ask(
    search: &mut Search<'_>,
    first: Upstream,
    head: &RequestHead,
    (waiter, after): (&impl Waiter, Duration),
    record: &mut Record,
) -> Result<(Upstream, bool), Stop> {
    let timer = waiter.timer();
    if !send(search, &first, head, waiter, timer).await {
        return Ok((first, false));
    }
    timer.set(after);
    let early = poll_fn(|context| {
        // Also when it broke: that is found out again where it is dealt with.
        if poll_answer(&first, context).is_ready() {
            return Poll::Ready(First::One);
        }
        if waiter.poll_gone(context).is_ready() {
            return Poll::Ready(First::ClientGone);
        }
        timer.poll_expired(context).map(|()| First::Nobody)
    })
    .await;
    match early {
        First::ClientGone => return Err(Stop::End(Reason::ClientGone)),
        First::Nobody => {}
        First::One | First::Two(_) | First::Alone => return Ok((first, true)),
    }
    let response = search.routed.settings.timeout.response;
    timer.set(response.saturating_sub(after));
    let outcome = race(search, &first, head, waiter, record).await;
    match outcome {
        First::Two(second) => {
            search.answered(&first);
            Ok((second, true))
        }
        First::One | First::Alone => {
            record.backend = Some(Arc::clone(first.backend()));
            Ok((first, true))
        }
        First::ClientGone => Err(Stop::End(Reason::ClientGone)),
        First::Nobody => {
            search.settle(&first, Outcome::Failed);
            let detail = "no backend answered in time";
            Err(Rejection::new(Reason::ResponseTimeout, detail).into())
        }
    }
}

async fn send(
    search: &Search<'_>,
    upstream: &Upstream,
    head: &RequestHead,
    waiter: &impl Waiter,
    timer: &Timer,
) -> bool {
    let Some(stream) = upstream.socket() else {
        return false;
    };
    let name = &upstream.backend().name;
    let lead = forward::request_head(search, head, waiter, name);
    let mut patience = Patience::Idle(search.routed.settings.timeout.idle);
    let parts = [lead.as_slice(), &[], &[]];
    let written = relay::write_all(stream, parts, &mut patience, timer);
    written.await.is_ok()
}

/// Reaches a second backend, if that is granted, while the first is listened to; then listens to
/// both.
async fn race(
    search: &mut Search<'_>,
    first: &Upstream,
    head: &RequestHead,
    waiter: &impl Waiter,
    record: &mut Record,
) -> First {
    let own = Timer::new(waiter.timer().core());
    let mut reaching = search.may_hedge();
    search.avoid(first.backend());
    let second = async {
        let second = search.reach(&own, record).await.ok()?;
        let other = second.backend().id != first.backend().id;
        let sent = other && send(search, &second, head, waiter, &own).await;
        sent.then_some(second)
    };
    let mut second = pin!(second);
    let mut reached: Option<Upstream> = None;
    let mut first_lives = true;
    poll_fn(|context: &mut Context<'_>| {
        if reaching && let Poll::Ready(outcome) = second.as_mut().poll(context) {
            reaching = false;
            reached = outcome;
        }
        if let Some(upstream) = &reached
            && let Poll::Ready(good) = poll_answer(upstream, context)
            && let Some(upstream) = reached.take()
            && good
        {
            return Poll::Ready(First::Two(upstream));
        }
        if first_lives && let Poll::Ready(good) = poll_answer(first, context) {
            if good {
                return Poll::Ready(First::One);
            }
            first_lives = false;
        }
        if !reaching && reached.is_none() && !first_lives {
            return Poll::Ready(First::Alone);
        }
        if waiter.poll_gone(context).is_ready() {
            return Poll::Ready(First::ClientGone);
        }
        waiter.timer().poll_expired(context).map(|()| First::Nobody)
    })
    .await
}

/// Reads what comes back first and keeps it with the upstream; false when the connection ended.
fn poll_answer(upstream: &Upstream, context: &Context<'_>) -> Poll<bool> {
    let Some(stream) = upstream.socket() else {
        return Poll::Ready(false);
    };
    if stream.poll_readable(context).is_pending() {
        return Poll::Pending;
    }
    let mut buffer = Buffer::new(stream.core(), SMALL);
    match stream.poll_read(context, buffer.spare()) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Ok(count)) if count > 0 => {
            buffer.fill(count);
            upstream.early.replace(Some(buffer));
            Poll::Ready(true)
        }
        Poll::Ready(_) => Poll::Ready(false),
    }
}

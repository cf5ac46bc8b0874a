//! A second backend is asked when the first has not answered for a while; who answers first
//! counts. For GET and HEAD alone: asking twice changes nothing.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::connection::Connection;
use crate::driver::timer::Timer;
use crate::forward;
use crate::http1::Framing;
use crate::http1::head::RequestHead;
use crate::pipeline::Stop;
use crate::reach::{Search, Upstream};
use crate::reason::{Reason, Rejection};
use crate::record::Record;
use crate::relay::{self, Patience};

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
    /// The second one can't be had.
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
    (connection, after): (&Connection, Duration),
    record: &mut Record,
) -> Result<(Upstream, bool), Stop> {
    let timer = &connection.timer;
    if !send(search, &first, head, connection, timer).await {
        return Ok((first, false));
    }
    timer.set(after);
    let early = poll_fn(|context| {
        if first.stream.poll_readable(context).is_ready() {
            return Poll::Ready(First::One);
        }
        if connection.stream.poll_broken(context).is_ready() {
            return Poll::Ready(First::ClientGone);
        }
        timer.poll_expired(context).map(|()| First::Nobody)
    })
    .await;
    match early {
        First::ClientGone => return Err(Stop::End(Reason::ClientGone)),
        First::Nobody if search.may_hedge() => {}
        _ => return Ok((first, true)),
    }
    search.avoid(first.backend());
    let response = search.routed.settings.timeout.response;
    timer.set(response.saturating_sub(after));
    let outcome = race(search, &first, head, connection, record).await;
    let now = connection.stream.core().now();
    match outcome {
        First::Two(second) => {
            first.answered(now);
            Ok((second, true))
        }
        First::One | First::Alone => {
            record.backend = Some(Arc::clone(first.backend()));
            Ok((first, true))
        }
        First::ClientGone => Err(Stop::End(Reason::ClientGone)),
        First::Nobody => {
            first.settle(crate::service::Outcome::Failed, now);
            let detail = "no backend answered in time";
            Err(Rejection::new(Reason::ResponseTimeout, detail).into())
        }
    }
}

async fn send(
    search: &Search<'_>,
    upstream: &Upstream,
    head: &RequestHead,
    connection: &Connection,
    timer: &Timer,
) -> bool {
    let name = &upstream.backend().name;
    let lead = forward::request_head(search, head, connection, name);
    let mut patience = Patience::Idle(search.routed.settings.timeout.idle);
    let parts = [lead.as_slice(), &[], &[]];
    let written = relay::write_all(&upstream.stream, parts, &mut patience, timer);
    written.await.is_ok()
}

/// Reaches a second backend while the first is listened to, then listens to both.
async fn race(
    search: &mut Search<'_>,
    first: &Upstream,
    head: &RequestHead,
    connection: &Connection,
    record: &mut Record,
) -> First {
    let own = Timer::new(connection.stream.core());
    let second = async {
        let second = search.reach(&own, record).await.ok()?;
        let other = second.backend().id != first.backend().id;
        let sent = other && send(search, &second, head, connection, &own).await;
        sent.then_some(second)
    };
    let mut second = pin!(second);
    let mut reached: Option<Upstream> = None;
    let mut reaching = true;
    poll_fn(|context: &mut Context<'_>| {
        if reaching && let Poll::Ready(outcome) = second.as_mut().poll(context) {
            reaching = false;
            reached = outcome;
            if reached.is_none() {
                return Poll::Ready(First::Alone);
            }
        }
        if let Some(second) =
            reached.take_if(|second| second.stream.poll_readable(context).is_ready())
        {
            return Poll::Ready(First::Two(second));
        }
        if first.stream.poll_readable(context).is_ready() {
            return Poll::Ready(First::One);
        }
        if connection.stream.poll_broken(context).is_ready() {
            return Poll::Ready(First::ClientGone);
        }
        connection
            .timer
            .poll_expired(context)
            .map(|()| First::Nobody)
    })
    .await
}

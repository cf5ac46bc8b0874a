//! TCP: a connection of a client and one to a backend become a tunnel; each side may end its
//! direction and go on reading.

use std::rc::Rc;

use crate::arrival;
use crate::connection::Connection;
use crate::decide::{self, Routed};
use crate::driver::timer::Timer;
use crate::pipeline::Stop;
use crate::reach::Search;
use crate::reason::Reason;
use crate::record::Record;
use crate::service::Outcome;
use crate::shard::Shard;
use crate::tunnel::Tunnel;

/// Serves one connection to its end.
pub(crate) async fn serve(shard: Rc<Shard>, mut connection: Connection) {
    if arrival::has_door(&shard, connection.listener())
        && !Box::pin(arrival::arrive(&shard, &mut connection)).await
    {
        return;
    }
    let mut record = Record::new(shard.core.now(), connection.peer);
    record.client = Some(connection.peer.ip().to_canonical());
    record.tunnel = true;
    let reason = match run(&shard, &connection, &mut record).await {
        Ok(reason) => reason,
        Err(Stop::Reject(rejection)) => rejection.reason,
        Err(Stop::End(reason)) => reason,
        Err(Stop::Quiet | Stop::NotYet | Stop::Stale | Stop::Unseen | Stop::Again(_)) => {
            Reason::BackendClosed
        }
    };
    record.finish(&shard, &connection.listener().name, None, reason);
}

async fn run(
    shard: &Rc<Shard>,
    connection: &Connection,
    record: &mut Record,
) -> Result<Reason, Stop> {
    let snapshot = shard.snapshot();
    let line = snapshot.line(&connection.listener().name);
    let line = line.ok_or(Stop::End(Reason::NoRoute))?;
    line.route.count(shard.index);
    record.route = Some(line.settings.name.clone());
    record.service = Some(line.settings.service.clone());
    record.called = connection.stream.local_address();
    let routed = Routed {
        route: &line.route,
        settings: &line.settings,
    };
    let set = line.service().set.load_full();
    let wanted = decide::wanted_by_address(line.service(), connection.peer.ip());
    let mut search = Search::new(shard, &snapshot, &routed, (&set, &wanted), true);
    search.passes_bytes();
    let timer = Timer::new(&shard.core);
    let upstream = Box::pin(search.reach(&timer, record)).await?;
    let socket = upstream.socket().ok_or(Stop::End(Reason::ConnectFailed))?;
    let names = (line.settings.name.as_str(), line.settings.service.as_str());
    let tunnel = Tunnel::plain(
        shard,
        names,
        (upstream.backend(), line.idle),
        (&connection.timer, record),
        (&connection.stream, &connection.listed),
    );
    let both = tunnel.run(&connection.stream, socket, Box::default());
    let reason = Box::pin(both).await;
    // That the connection stood is all that is known of the backend here.
    search.settle(&upstream, Outcome::Good);
    Ok(reason)
}

//! What happens to a request, before a byte of it moves: route, limits, backend. Pure, so that
//! `munjigi explain request` asks the same code that serves.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use munjigi_foundation::settings::format_duration;

use crate::backends::{Backend, Holder, Service, Set};
use crate::balance::Pick;
use crate::http1::Framing;
use crate::http1::fields::Name;
use crate::http1::head::RequestHead;
use crate::rate;
use crate::reason::{Reason, Rejection};
use crate::ring::stable_hash;
use crate::routes::{self, Choice, Lookup, LookupSource, Question};
use crate::settings::{Balance, HashSource, LimitBy, RouteSettings};
use crate::snapshot::{Route, Snapshot};
use crate::target;
use crate::template::Facts;
use crate::ws::handshake::{self, Fault};

/// The service that workers post their events to.
const HUB: &str = "HUB";
/// The listener that users never see.
const INNER: &str = "inner";

/// A request with its route.
#[derive(Debug)]
pub(crate) struct Routed<'s> {
    pub(crate) route: &'s Route,
    pub(crate) settings: &'s RouteSettings,
}

/// Asks `act` with what a request is routed by.
pub(crate) fn with_question<T>(
    listener: &str,
    head: &RequestHead,
    act: impl FnOnce(Question<'_>) -> T,
) -> T {
    let target = target::text(head.target());
    let (path, query) = target::split(&target);
    let host = target::text(head.host().unwrap_or_default());
    act(Question {
        listener,
        host: &target::host_name(&host),
        path: &target::routed_path(path),
        query: query.unwrap_or_default(),
        head,
    })
}

/// Route: the most specific one, or why there is none.
pub(crate) fn route<'s>(
    snapshot: &'s Snapshot,
    listener: &str,
    head: &RequestHead,
) -> Result<Routed<'s>, Rejection> {
    if head.method() == b"CONNECT" {
        return Err(Rejection::new(
            Reason::ConnectRefused,
            "this gate is no forward proxy",
        ));
    }
    let choice = with_question(listener, head, |question| snapshot.table.find(question));
    let place = match choice {
        Choice::Route(place) => place,
        Choice::OtherMethods(allowed) => {
            let allowed = allowed.join(", ");
            let mut rejection = Rejection::new(
                Reason::MethodNotAllowed,
                format!("this path takes only {allowed}"),
            );
            rejection.allow = Some(allowed);
            return Err(rejection);
        }
        Choice::None => return Err(no_route()),
    };
    let routed = snapshot
        .routes
        .get(place)
        .and_then(|route| Some((route, snapshot.route_settings(route)?)));
    let Some((route, settings)) = routed else {
        return Err(no_route());
    };
    if settings.service == HUB && listener != INNER && reaches_internal(settings, head) {
        return Err(Rejection::new(
            Reason::InternalPath,
            "there is nothing here",
        ));
    }
    Ok(Routed { route, settings })
}

/// The path as it came, or as the route rewrites it, is for workers only.
fn reaches_internal(settings: &RouteSettings, head: &RequestHead) -> bool {
    let target = target::text(head.target());
    routes::is_internal(target::split(&target).0)
        || settings.rewrite.as_ref().is_some_and(|rewrite| {
            let facts = Facts {
                head,
                path: target::path_of(head.target()),
                pattern: &settings.path,
                // No path is made of these.
                client: [0, 0, 0, 0].into(),
                scheme: "http",
            };
            let rewritten = rewrite.target(&facts);
            routes::is_internal(target::split(&target::text(&rewritten)).0)
        })
}

/// The route's rate limit: takes a token, or only looks whether there is one.
pub(crate) fn rate(
    route: &Route,
    (head, client): (&RequestHead, IpAddr),
    now: Instant,
    take: bool,
) -> Result<(), Rejection> {
    let Some(limiter) = &route.limiter else {
        return Ok(());
    };
    let outcome = if take {
        limiter.take(head, client, now)
    } else {
        limiter.look(head, client, now)
    };
    outcome.map_err(|wait| {
        let limit = limiter.settings();
        let detail = format!(
            "more than {} requests in {} by one {}",
            limit.requests,
            format_duration(limit.per),
            match limit.by {
                LimitBy::ClientIp => "client",
                LimitBy::Header(_) => "value of a header field",
                LimitBy::User => "user",
            }
        );
        Rejection::new(Reason::RateLimited, detail).retry_after(rate::retry_after(wait))
    })
}

fn no_route() -> Rejection {
    Rejection::new(Reason::NoRoute, "no route of this gate fits the request")
}

/// Limits: what the route does not let through whatever the backend says.
pub(crate) fn limits(settings: &RouteSettings, head: &RequestHead) -> Result<(), Rejection> {
    if let (Some(limit), Framing::Length(length)) = (settings.request_body_max, head.framing)
        && length > limit
    {
        return Err(body_too_large(limit));
    }
    if head.upgrade().is_some() && !handshake::knows_origin(&settings.websocket, head) {
        let fault = Fault::OriginRefused;
        return Err(Rejection::new(Reason::OriginRefused, fault.said())
            .hint(fault.hint())
            .fault(fault));
    }
    Ok(())
}

pub(crate) fn body_too_large(limit: u64) -> Rejection {
    Rejection::new(
        Reason::BodyTooLarge,
        format!("the body is larger than {limit} bytes, the limit of this route"),
    )
}

/// Which backends may take the request.
#[derive(Debug)]
pub(crate) enum Wanted {
    /// Any of the service.
    Any(Preference),
    /// This one, and never another.
    Only(Arc<Backend>),
}

/// Which of all backends is preferred.
#[derive(Debug, Default)]
pub(crate) struct Preference {
    /// Where the request hashes to.
    hash: u64,
    /// Where the client's cookie leads.
    stuck: Option<Arc<Backend>>,
}

impl Wanted {
    /// True when the client is to be told that it stays with `backend`.
    pub(crate) fn is_new_to(&self, service: &Service, backend: &Backend) -> bool {
        let Self::Any(preference) = self else {
            return false;
        };
        let known = preference.stuck.as_ref();
        service.settings.sticky.is_some() && known.is_none_or(|known| known.id != backend.id)
    }
}

fn preference(service: &Service, set: &Set, head: &RequestHead, client: IpAddr) -> Preference {
    let settings = &service.settings;
    let mut preference = Preference::default();
    if settings.balance == Balance::ConsistentHash {
        preference.hash = hash(&settings.hash, head, client);
    }
    if let Some(sticky) = &settings.sticky {
        let value = target::cookie(head.fields.all(Name::Cookie), &sticky.cookie);
        let value = value.ok().flatten().unwrap_or_default();
        preference.stuck = set.stuck(&value).map(Arc::clone);
    }
    preference
}

/// For a connection without requests: any backend, its hash by the client's address.
pub(crate) fn wanted_by_address(service: &Service, client: IpAddr) -> Wanted {
    let mut preference = Preference::default();
    if service.settings.balance == Balance::ConsistentHash {
        preference.hash = address_hash(client);
    }
    Wanted::Any(preference)
}

/// What a request hashes to: by the client's address when it does not have what is asked for.
fn hash(source: &HashSource, head: &RequestHead, client: IpAddr) -> u64 {
    let target = target::text(head.target());
    let (path, query) = target::split(&target);
    let value = match source {
        HashSource::ClientIp => None,
        HashSource::Path => Some(path.as_bytes().to_vec()),
        HashSource::Header(name) => head.fields.named(name).next().map(<[u8]>::to_vec),
        HashSource::Cookie(name) => {
            let found = target::cookie(head.fields.all(Name::Cookie), name);
            found.ok().flatten().map(String::into_bytes)
        }
        HashSource::Query(name) => {
            let found = target::query_parameter(query.unwrap_or_default(), name);
            found.ok().flatten().map(String::into_bytes)
        }
    };
    value.map_or_else(|| address_hash(client), |value| stable_hash(&value))
}

fn address_hash(client: IpAddr) -> u64 {
    match client.to_canonical() {
        IpAddr::V4(ip) => stable_hash(&ip.octets()),
        IpAddr::V6(ip) => stable_hash(&ip.octets()),
    }
}

/// Backend: whom `where` names, or any.
pub(crate) fn wanted(
    routed: &Routed<'_>,
    set: &Set,
    head: &RequestHead,
    client: IpAddr,
    now: Instant,
) -> Result<Wanted, Rejection> {
    let any = || Wanted::Any(preference(&routed.route.service, set, head, client));
    let Some(lookup) = &routed.settings.lookup else {
        return Ok(any());
    };
    let Some(value) = lookup_value(lookup, routed.settings, head)? else {
        if lookup.balance_when_missing {
            return Ok(any());
        }
        return Err(Rejection::new(
            Reason::WhereMissing,
            format!("the request does not name `{}`", lookup.source),
        ));
    };
    let key = &lookup.key;
    let shown: String = value.chars().take(100).collect();
    match set.holder(key, &value, now) {
        Holder::One(backend) => Ok(Wanted::Only(Arc::clone(backend))),
        Holder::Several => Err(Rejection::new(
            Reason::DuplicateServerId,
            format!("more than one instance has {key} = {shown}"),
        )
        .hint("each instance needs a value of its own")
        .retry_after(5)),
        Holder::Away => Err(Rejection::new(
            Reason::InstanceAway,
            format!("the instance with {key} = {shown} is away"),
        )
        .retry_after(2)),
        Holder::Unknown => Err(Rejection::new(
            Reason::NoSuchInstance,
            format!("no instance has {key} = {shown}"),
        )),
    }
}

fn lookup_value(
    lookup: &Lookup,
    settings: &RouteSettings,
    head: &RequestHead,
) -> Result<Option<String>, Rejection> {
    let target = target::text(head.target());
    let (path, query) = target::split(&target);
    let found = match &lookup.source {
        LookupSource::Query(name) => target::query_parameter(query.unwrap_or_default(), name),
        LookupSource::Header(name) => target::single(
            head.fields
                .named(name)
                .map(|value| String::from_utf8_lossy(value).into_owned()),
        ),
        LookupSource::Cookie(name) => target::cookie(head.fields.all(Name::Cookie), name),
        LookupSource::Path(name) => {
            let path = target::normal_path(path);
            Ok(settings.path.captured(&path, name).map(str::to_owned))
        }
    };
    found.map_err(|target::Repeated| {
        Rejection::new(
            Reason::WhereAmbiguous,
            format!("the request names `{}` more than once", lookup.source),
        )
    })
}

/// Who takes the request.
#[derive(Debug)]
pub(crate) enum Candidate {
    One(Arc<Backend>),
    /// All have as many requests as they may.
    Full,
}

/// Balance: one of the service's backends, leaving out those tried while there is another.
pub(crate) fn backend(
    service: &Service,
    set: &Set,
    wanted: &Wanted,
    tried: &[u64],
    now: Instant,
) -> Result<Candidate, Rejection> {
    let preference = match wanted {
        Wanted::Only(backend) => return Ok(Candidate::One(Arc::clone(backend))),
        Wanted::Any(preference) => preference,
    };
    let stuck = preference.stuck.as_ref();
    if let Some(backend) = stuck.filter(|backend| service.may_use(backend, tried)) {
        return Ok(Candidate::One(Arc::clone(backend)));
    }
    match service.choose(set, preference.hash, tried, now) {
        Pick::One(backend) => Ok(Candidate::One(Arc::clone(backend))),
        Pick::Full => Ok(Candidate::Full),
        Pick::None => Err(Rejection::new(
            Reason::NoBackend,
            format!("service {} has no backend now", service.name),
        )
        .retry_after(2)),
    }
}

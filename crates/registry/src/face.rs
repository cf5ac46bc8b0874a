//! The Eureka protocol over HTTP, under `/eureka` and `/eureka/v2`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, put};
use axum::{Json, Router};
use munjigi_eureka::{InstanceStatus, instance_from_json, instance_to_json};
use munjigi_foundation::api::{Problem, read_body};
use serde_json::json;

use crate::Shared;
use crate::answers::{Asked, answer};
use crate::guard;
use crate::leases::{Refusal, Renewed};

/// The largest registration.
const BODY_MAX: usize = 256 * 1024;

type Registry = State<Arc<Shared>>;
type Answer = Result<Response, Problem>;

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    let protocol = Router::new()
        .route("/apps", get(all))
        .route("/apps/delta", get(delta))
        .route("/apps/{app}", get(application).post(register))
        .route("/apps/{app}/{id}", get(instance).put(renew).delete(cancel))
        .route(
            "/apps/{app}/{id}/status",
            put(set_status).delete(drop_status),
        )
        .route("/apps/{app}/{id}/metadata", put(add_metadata))
        .route("/instances/{id}", get(by_id))
        .route("/vips/{vip}", get(by_vip))
        .route("/svips/{vip}", get(by_secure_vip));
    let face = Router::new()
        .nest("/eureka/v2", protocol.clone())
        .nest("/eureka", protocol)
        .route("/health", get(async || Json(json!({"status": "UP"}))))
        .route("/metrics", get(metrics))
        .fallback(async || Problem::not_found("resource"))
        .with_state(Arc::clone(&shared));
    // Around the router, not within it: a slash must be off before a route is chosen.
    Router::new()
        .fallback_service(face)
        .layer(from_fn_with_state(shared, admit))
}

/// Lets a request pass, with the slash that some clients put at its end taken off.
async fn admit(State(shared): Registry, mut request: Request, next: Next) -> Response {
    if request.uri().path() != "/health"
        && let Err(problem) = guard::admit(&shared, request.method(), request.headers())
    {
        let asks = problem.status == StatusCode::UNAUTHORIZED;
        let mut response = problem.into_response();
        if asks {
            response.headers_mut().insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Basic realm=\"registry\", charset=\"UTF-8\""),
            );
        }
        return response;
    }
    trim_slash(&mut request);
    next.run(request).await
}

fn trim_slash(request: &mut Request<Body>) {
    let uri = request.uri();
    let path = uri.path();
    if path.len() < 2 || !path.ends_with('/') {
        return;
    }
    let trimmed = path.trim_end_matches('/');
    let target = match uri.query() {
        Some(query) => format!("{trimmed}?{query}"),
        None => trimmed.to_owned(),
    };
    if let Ok(target) = target.parse() {
        *request.uri_mut() = target;
    }
}

fn too_slow(shared: &Shared) -> Problem {
    let seconds = shared.settings.body_time.as_secs();
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "request_timeout",
        format!("the body was not there after {seconds} s"),
    )
}

fn unknown() -> Problem {
    Problem::not_found("instance")
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::Full(_) => Self::new(
                StatusCode::INSUFFICIENT_STORAGE,
                "registry_full",
                refusal.to_string(),
            ),
            Refusal::Metadata(_) | Refusal::MetadataBytes(_) => {
                Self::bad_request("too_much_metadata", refusal.to_string())
            }
        }
    }
}

async fn all(State(shared): Registry, headers: HeaderMap) -> Answer {
    answer(&shared, Asked::All, &headers).await
}

async fn delta(State(shared): Registry, headers: HeaderMap) -> Answer {
    answer(&shared, Asked::Delta, &headers).await
}

async fn application(
    State(shared): Registry,
    Path(app): Path<String>,
    headers: HeaderMap,
) -> Answer {
    answer(&shared, Asked::Application(app.to_uppercase()), &headers).await
}

async fn register(
    State(shared): Registry,
    Path(app): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Answer {
    guard::admit_change(&shared, &headers, &app)?;
    let reading = read_body(body, BODY_MAX);
    let body = match tokio::time::timeout(shared.settings.body_time, reading).await {
        Ok(body) => body?,
        Err(_) => return Err(too_slow(&shared)),
    };
    let instance = instance_from_json(&body)
        .map_err(|error| Problem::bad_request("bad_instance", error.to_string()))?;
    if !instance.app.eq_ignore_ascii_case(&app) {
        return Err(Problem::bad_request(
            "mismatched_app",
            format!(
                "Mismatched appName, expecting {} but was {}",
                app.to_uppercase(),
                instance.app
            ),
        ));
    }
    let now = shared.ticks.now();
    shared.change(|leases| leases.register(instance, now))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn instance(State(shared): Registry, Path((app, id)): Path<(String, String)>) -> Answer {
    let instance = shared.leases().instance(&app, &id).ok_or_else(unknown)?;
    Ok(Json(instance_to_json(&instance)).into_response())
}

async fn by_id(State(shared): Registry, Path(id): Path<String>) -> Answer {
    let found = shared
        .leases()
        .answer(|instance| instance.instance_id == id);
    let instance = found
        .applications
        .iter()
        .flat_map(|app| &app.instances)
        .next();
    let instance = instance.ok_or_else(unknown)?;
    Ok(Json(instance_to_json(instance)).into_response())
}

async fn by_vip(State(shared): Registry, Path(vip): Path<String>, headers: HeaderMap) -> Answer {
    answer(&shared, Asked::Vip(vip), &headers).await
}

async fn by_secure_vip(
    State(shared): Registry,
    Path(vip): Path<String>,
    headers: HeaderMap,
) -> Answer {
    answer(&shared, Asked::SecureVip(vip), &headers).await
}

type Pairs = Query<Vec<(String, String)>>;

fn pair<'q>(pairs: &'q [(String, String)], name: &str) -> Option<&'q str> {
    pairs
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

fn status_of(pairs: &[(String, String)], name: &str) -> Result<Option<InstanceStatus>, Problem> {
    pair(pairs, name)
        .map(|written| {
            InstanceStatus::parse(written).ok_or_else(|| {
                Problem::bad_request("bad_status", format!("\"{written}\" is no status"))
            })
        })
        .transpose()
}

async fn renew(
    State(shared): Registry,
    Path((app, id)): Path<(String, String)>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer {
    guard::admit_change(&shared, &headers, &app)?;
    let status = status_of(&pairs, "status")?;
    let dirty = pair(&pairs, "lastDirtyTimestamp").and_then(|written| written.parse().ok());
    let now = shared.ticks.now();
    match shared.change(|leases| leases.renew(&app, &id, dirty, status, now)) {
        Renewed::Yes => Ok(StatusCode::OK.into_response()),
        Renewed::Unknown => Err(unknown()),
    }
}

async fn cancel(
    State(shared): Registry,
    Path((app, id)): Path<(String, String)>,
    headers: HeaderMap,
) -> Answer {
    guard::admit_change(&shared, &headers, &app)?;
    let now = shared.ticks.now();
    found(shared.change(|leases| leases.cancel(&app, &id, now)))
}

async fn set_status(
    State(shared): Registry,
    Path((app, id)): Path<(String, String)>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer {
    guard::admit_change(&shared, &headers, &app)?;
    let status = status_of(&pairs, "value")?
        .ok_or_else(|| Problem::bad_request("bad_status", "the query names no `value`"))?;
    let now = shared.ticks.now();
    found(shared.change(|leases| leases.set_status(&app, &id, status, now)))
}

async fn drop_status(
    State(shared): Registry,
    Path((app, id)): Path<(String, String)>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer {
    guard::admit_change(&shared, &headers, &app)?;
    let status = status_of(&pairs, "value")?.unwrap_or_default();
    let now = shared.ticks.now();
    found(shared.change(|leases| leases.drop_status(&app, &id, status, now)))
}

async fn add_metadata(
    State(shared): Registry,
    Path((app, id)): Path<(String, String)>,
    Query(pairs): Pairs,
    headers: HeaderMap,
) -> Answer {
    guard::admit_change(&shared, &headers, &app)?;
    let now = shared.ticks.now();
    found(shared.change(|leases| leases.add_metadata(&app, &id, pairs.into_iter(), now))?)
}

fn found(found: bool) -> Answer {
    if found {
        Ok(StatusCode::OK.into_response())
    } else {
        Err(unknown())
    }
}

async fn metrics(State(shared): Registry) -> Response {
    let leases = shared.leases();
    let mut text = String::from("# TYPE munjigi_registry_instances gauge\n");
    for application in leases.all().applications {
        text.push_str(&format!(
            "munjigi_registry_instances{{application=\"{}\"}} {}\n",
            application.name.replace(['"', '\\', '\n'], "_"),
            application.instances.len()
        ));
    }
    text.push_str(&format!(
        "# TYPE munjigi_registry_version counter\nmunjigi_registry_version {}\n",
        leases.version()
    ));
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

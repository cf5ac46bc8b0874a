//! `POST /analysis`: takes a file to the disk, never gathered, and answers once it is durable and verified.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::BodyExt;
use munjigi_events::{Progress, Status};
use munjigi_foundation::api::{Problem, same_secret};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::disk_failed;
use super::query::Dispatch;
use crate::book::{Admission, Phase};
use crate::core::{Core, How, Promise, blocking};
use crate::folder::{Stage, State as Kept};
use crate::job::Job;
use crate::log::Draft;

/// Pieces of a body between the network and the disk.
const PIECES: usize = 8;
/// Promised at once to a file whose length is not known.
const UNKNOWN_LENGTH_STEP: u64 = 64 << 20;
/// How often the arrival is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(1_500);
/// What is read of a body that is not taken, so that its sender sees the answer.
const DRAIN_BYTES: u64 = 1 << 20;
const DRAIN_TIME: Duration = Duration::from_secs(5);

pub(super) async fn receive(
    State(core): State<Arc<Core>>,
    uri: Uri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let dispatch = match Dispatch::read(&core, &uri) {
        Ok(dispatch) => dispatch,
        Err(problem) => return turn_away(&core, problem, body),
    };
    let mut arrival = match Arrival::announced(&core, &headers) {
        Ok(arrival) => arrival,
        Err(problem) => return turn_away(&core, problem, body),
    };
    let job = match admit(&core, &dispatch, &mut arrival).await {
        Ok(Some(job)) => job,
        Ok(None) => {
            // It is here already; its sender may finish its sentence.
            drain(body, core.settings.upload_max, core.settings.idle_max).await;
            return accepted(&core, &dispatch);
        }
        Err(problem) => return turn_away(&core, problem, body),
    };
    let (worker, taken) = (Arc::clone(&core), Arc::clone(&job));
    // Not in this task: a sender that goes away drops it, and the rest must be cleared away all the same.
    let work = job
        .tasks
        .spawn(async move { take(&worker, &taken, arrival, body).await });
    match work.await {
        Ok(Ok(())) => accepted(&core, &dispatch),
        Ok(Err(problem)) => core.refused(problem).into_response(),
        Err(error) => disk_failed(&std::io::Error::other(error)).into_response(),
    }
}

fn accepted(core: &Core, dispatch: &Dispatch) -> Response {
    let answer = json!({"serverId": core.server_id, "analyzeId": dispatch.analysis});
    (StatusCode::ACCEPTED, Json(answer)).into_response()
}

/// Answers at once, and reads on a little in the background: a connection that is closed under a sender's hands may
/// cost it the answer.
fn turn_away(core: &Arc<Core>, problem: Problem, body: Body) -> Response {
    core.tasks
        .spawn(async move { drain(body, DRAIN_BYTES, DRAIN_TIME).await });
    core.refused(problem).into_response()
}

async fn drain(mut body: Body, limit: u64, idle: Duration) {
    let mut left = limit;
    while let Ok(Some(Ok(frame))) = tokio::time::timeout(idle, body.frame()).await {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(u64::try_from(length).unwrap_or(u64::MAX)) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}

/// What the head says of the body.
struct Arrival {
    length: Option<u64>,
    /// SHA-256 from the header; a trailer may bring it later.
    digest: Option<Vec<u8>>,
    promise: Option<Promise>,
}

impl Arrival {
    fn announced(core: &Core, headers: &HeaderMap) -> Result<Self, Problem> {
        let length = headers
            .get(header::CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if length.is_some_and(|length| length > core.settings.upload_max) {
            return Err(too_large(core));
        }
        Ok(Self {
            length,
            digest: digest(headers)?,
            promise: None,
        })
    }
}

fn too_large(core: &Core) -> Problem {
    Problem::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "file_too_large",
        format!(
            "this worker takes files of at most {} bytes",
            core.settings.upload_max
        ),
    )
}

fn no_disk() -> Problem {
    Problem::new(
        StatusCode::TOO_MANY_REQUESTS,
        "no_disk",
        "this worker has not enough free disk for the file",
    )
    .retry_after(30)
}

/// The `sha-256` of a `Repr-Digest` field (RFC 9530 §3). A field with other algorithms only can't be verified.
fn digest(headers: &HeaderMap) -> Result<Option<Vec<u8>>, Problem> {
    let mut seen = false;
    for value in headers.get_all("repr-digest") {
        seen = true;
        let text = value.to_str().unwrap_or_default();
        for member in text.split(',') {
            let Some((name, value)) = member.trim().split_once('=') else {
                continue;
            };
            if !name.eq_ignore_ascii_case("sha-256") {
                continue;
            }
            let decoded = value
                .strip_prefix(':')
                .and_then(|value| value.strip_suffix(':'))
                .and_then(|value| STANDARD.decode(value).ok())
                .filter(|digest| digest.len() == 32);
            return match decoded {
                Some(digest) => Ok(Some(digest)),
                None => Err(bad_digest(
                    "its sha-256 is not 32 bytes in base64 between colons",
                )),
            };
        }
    }
    if seen {
        Err(bad_digest("it has no sha-256"))
    } else {
        Ok(None)
    }
}

fn bad_digest(why: &str) -> Problem {
    Problem::bad_request("bad_digest", format!("`Repr-Digest` can't be used: {why}"))
        .hint("write `Repr-Digest: sha-256=:BASE64:` (RFC 9530)")
}

/// A job to fill, or `None` when this attempt is here already.
async fn admit(
    core: &Arc<Core>,
    dispatch: &Dispatch,
    arrival: &mut Arrival,
) -> Result<Option<Arc<Job>>, Problem> {
    let conflict = |code, detail: String| Problem::new(StatusCode::CONFLICT, code, detail);
    loop {
        let admission = match enter(core, dispatch, arrival)? {
            Ok(job) => return Ok(Some(job)),
            Err(admission) => admission,
        };
        return match admission {
            Admission::Here => Ok(None),
            Admission::Supersedes(older) => {
                core.end(dispatch.analysis.clone(), Some(older), How::Delete)
                    .await
                    .map_err(|error| disk_failed(&error))?;
                continue;
            }
            Admission::Fenced(upto) => Err(conflict(
                "fenced",
                format!("attempts up to {upto} were cancelled or deleted here"),
            )),
            Admission::Older(newer) => Err(conflict(
                "older_attempt",
                format!("attempt {newer} is here already"),
            )),
            Admission::Lost => Err(conflict(
                "lost",
                "this attempt was lost when the worker was restarted".to_owned(),
            )
            .hint("send it again with the next attempt")),
            Admission::Arriving => Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "arriving",
                "this attempt is arriving by another connection",
            )
            .retry_after(1)),
            Admission::Full | Admission::Take | Admission::TakeAgain(_) => Err(Problem::new(
                StatusCode::TOO_MANY_REQUESTS,
                "no_slot",
                format!("all {} slots of this worker are taken", core.settings.slots),
            )
            .retry_after(5)),
        };
    }
}

/// The job, with its slot and disk taken in the same moment; or why it was not admitted.
fn enter(
    core: &Arc<Core>,
    dispatch: &Dispatch,
    arrival: &mut Arrival,
) -> Result<Result<Arc<Job>, Admission<Arc<Job>>>, Problem> {
    if core.shutdown.is_cancelled() {
        return Err(Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "stopping",
            "this worker is being stopped",
        )
        .retry_after(5));
    }
    let mut book = core.book();
    let admission = book.admit(&dispatch.analysis, dispatch.attempt);
    let job = match &admission {
        Admission::Take => core.new_job(Kept {
            user: dispatch.user.clone(),
            event: dispatch.event.clone(),
            analysis: dispatch.analysis.clone(),
            attempt: dispatch.attempt,
            first_seq: dispatch.seq,
            model: dispatch.model.clone(),
            name: dispatch.name.clone(),
            stage: Stage::Receiving,
            since: core.clock.now(),
            result: None,
        }),
        Admission::TakeAgain(job) => Arc::clone(job),
        _ => return Ok(Err(admission)),
    };
    let bytes = arrival.length.unwrap_or(UNKNOWN_LENGTH_STEP);
    let promise = core.promise(bytes).map_err(|error| disk_failed(&error))?;
    arrival.promise = Some(promise.ok_or_else(no_disk)?);
    book.insert(
        dispatch.analysis.clone(),
        dispatch.attempt,
        Phase::Receiving,
        Arc::clone(&job),
    );
    drop(book);
    core.counted();
    Ok(Ok(job))
}

/// Takes the file, then starts its model. Whatever goes wrong, the slot is free and the file gone afterwards.
async fn take(
    core: &Arc<Core>,
    job: &Arc<Job>,
    arrival: Arrival,
    body: Body,
) -> Result<(), Problem> {
    let problem = match take_file(core, job, arrival, body).await {
        Ok(()) => match start(core, job).await {
            Ok(()) => return Ok(()),
            Err(problem) => problem,
        },
        Err(problem) => problem,
    };
    let (cut, clock) = (Arc::clone(job), core.clock.clone());
    let cleared = blocking(move || {
        cut.place.remove_run()?;
        cut.reach(Stage::Cut, &clock)
    });
    if let Err(error) = cleared.await {
        // The next start removes what is left.
        tracing::error!(analysis = %job.analysis(), %error, "a cut file can't be cleared away");
    }
    core.book()
        .advance(job.analysis(), job.attempt(), Phase::Cut);
    core.counted();
    tracing::warn!(analysis = %job.analysis(), attempt = job.attempt(), why = problem.code, "a file did not arrive");
    Err(problem)
}

async fn take_file(
    core: &Arc<Core>,
    job: &Arc<Job>,
    mut arrival: Arrival,
    body: Body,
) -> Result<(), Problem> {
    let (making, clock) = (Arc::clone(job), core.clock.clone());
    blocking(move || {
        let mut state = making.state();
        state.stage = Stage::Receiving;
        state.since = clock.now();
        making.place.make(&state)?;
        making.change(|kept| *kept = state)
    })
    .await
    .map_err(|error| disk_failed(&error))?;
    let started = Draft::new(Status::Receiving).progress(Some(progress(0, arrival.length)));
    job.tell(vec![started])
        .await
        .map_err(|error| disk_failed(&std::io::Error::other(error)))?;
    core.start_sending(job, false);
    let (pieces, mut queue) = mpsc::channel::<Bytes>(PIECES);
    let file = job.place.file(&job.state().name);
    let writer = tokio::task::spawn_blocking(move || write(&file, &mut queue));
    let read = tokio::select! {
        read = read_body(core, job, &mut arrival, body, &pieces) => read,
        () = job.cancelled.cancelled() => Err(ended_meanwhile()),
        () = job.stopped.cancelled() => Err(ended_meanwhile()),
    };
    drop(pieces);
    let written = writer
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
    let (hash, bytes) = match written {
        Ok(written) => written,
        Err(error) if out_of_disk(&error) => return Err(no_disk()),
        Err(error) => return Err(disk_failed(&error)),
    };
    verify(&read?, &arrival, &hash)?;
    core.metrics.received.inc_by(bytes);
    Ok(())
}

fn ended_meanwhile() -> Problem {
    Problem::new(
        StatusCode::CONFLICT,
        "fenced",
        "the attempt was cancelled or deleted while its file arrived",
    )
}

fn out_of_disk(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded
    )
}

fn verify(trailers: &HeaderMap, arrival: &Arrival, hash: &[u8]) -> Result<(), Problem> {
    let announced = match &arrival.digest {
        Some(digest) => Some(digest.clone()),
        None => digest(trailers)?,
    };
    match announced {
        Some(digest) if same_secret(&digest, hash) => Ok(()),
        Some(_) => Err(Problem::bad_request(
            "digest_mismatch",
            "the bytes that arrived are not those that `Repr-Digest` names",
        )
        .hint("send it again")),
        // Its length at least is as announced, or HTTP would have said so.
        None if arrival.length.is_some() => Ok(()),
        None => Err(bad_digest("it is missing, and so is Content-Length")),
    }
}

/// Reads the body into the queue; gives its trailers.
async fn read_body(
    core: &Arc<Core>,
    job: &Job,
    arrival: &mut Arrival,
    mut body: Body,
    pieces: &mpsc::Sender<Bytes>,
) -> Result<HeaderMap, Problem> {
    let mut bytes = 0_u64;
    let mut trailers = HeaderMap::new();
    let mut told = Instant::now();
    let mut idle = Instant::now() + core.settings.idle_max;
    loop {
        let frame = tokio::select! {
            frame = body.frame() => frame,
            () = tokio::time::sleep_until(told + PROGRESS_EVERY) => {
                tell_progress(job, bytes, arrival.length).await;
                told = Instant::now();
                if told >= idle {
                    return Err(stalled(core.settings.idle_max));
                }
                continue;
            }
        };
        let frame = match frame {
            None => return Ok(trailers),
            Some(Ok(frame)) => frame,
            Some(Err(_)) => {
                return Err(Problem::bad_request(
                    "body_cut",
                    "the file ended before its end",
                ));
            }
        };
        match frame.into_data() {
            Ok(data) => {
                bytes = bytes.saturating_add(u64::try_from(data.len()).unwrap_or(u64::MAX));
                hold(core, arrival, bytes, &data)?;
                if pieces.send(data).await.is_err() {
                    // The writer says why.
                    return Ok(trailers);
                }
                idle = Instant::now() + core.settings.idle_max;
            }
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
}

fn stalled(limit: Duration) -> Problem {
    Problem::new(
        StatusCode::REQUEST_TIMEOUT,
        "body_stalled",
        format!("nothing arrived for {} s", limit.as_secs()),
    )
}

/// Keeps the size within its limit and the disk promised.
fn hold(core: &Arc<Core>, arrival: &mut Arrival, bytes: u64, data: &Bytes) -> Result<(), Problem> {
    if bytes > core.settings.upload_max {
        return Err(too_large(core));
    }
    let length = u64::try_from(data.len()).unwrap_or(u64::MAX);
    let enough = arrival
        .promise
        .as_mut()
        .is_some_and(|promise| promise.use_up(length));
    if !enough {
        let next = core
            .promise(UNKNOWN_LENGTH_STEP)
            .map_err(|error| disk_failed(&error))?;
        arrival.promise = Some(next.ok_or_else(no_disk)?);
    }
    Ok(())
}

fn progress(bytes: u64, length: Option<u64>) -> Progress {
    Progress {
        phase: "receive".to_owned(),
        done: bytes,
        total: length,
        unit: Some("bytes".to_owned()),
    }
}

async fn tell_progress(job: &Job, bytes: u64, length: Option<u64>) {
    if job.log.unsent() < crate::run::UNSENT_QUIET {
        let draft = Draft::new(Status::Receiving).progress(Some(progress(bytes, length)));
        job.tell_or_log(draft).await;
    }
}

/// Writes and hashes what comes, and makes it durable. Blocking.
fn write(path: &Path, queue: &mut mpsc::Receiver<Bytes>) -> std::io::Result<(Vec<u8>, u64)> {
    let mut file = std::fs::File::create(path)?;
    let mut hash = Sha256::new();
    let mut bytes = 0_u64;
    while let Some(piece) = queue.blocking_recv() {
        file.write_all(&piece)?;
        hash.update(&piece);
        bytes += u64::try_from(piece.len()).unwrap_or(0);
    }
    file.sync_all()?;
    if let Some(folder) = path.parent() {
        std::fs::File::open(folder)?.sync_all()?;
    }
    Ok((hash.finalize().to_vec(), bytes))
}

/// The file is here: from now on the attempt runs.
async fn start(core: &Arc<Core>, job: &Arc<Job>) -> Result<(), Problem> {
    let (kept, clock) = (Arc::clone(job), core.clock.clone());
    blocking(move || kept.reach(Stage::Running, &clock))
        .await
        .map_err(|error| disk_failed(&error))?;
    if !core
        .book()
        .advance(job.analysis(), job.attempt(), Phase::Running)
    {
        return Err(ended_meanwhile());
    }
    core.counted();
    let (running, runner) = (Arc::clone(job), Arc::clone(core));
    job.tasks
        .spawn(async move { crate::run::run(&runner, &running).await });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_read_as_rfc_9530_says() {
        let hash = STANDARD.encode([7; 32]);
        let check = |fields: &[&str], expected: Result<Option<Vec<u8>>, &str>| {
            let mut headers = HeaderMap::new();
            for field in fields {
                headers.append("repr-digest", field.parse().unwrap());
            }
            let read = digest(&headers).map_err(|problem| problem.code);
            assert_eq!(read, expected, "{fields:?}");
        };
        let good = Ok(Some(vec![7; 32]));
        check(&[], Ok(None));
        check(&[&format!("sha-256=:{hash}:")], good.clone());
        check(
            &[&format!("sha-512=:AA==:, SHA-256=:{hash}:")],
            good.clone(),
        );
        check(&["sha-512=:AA==:", &format!("sha-256=:{hash}:")], good);
        check(&["sha-256=:AA==:"], Err("bad_digest"));
        check(&[&format!("sha-256={hash}")], Err("bad_digest"));
        check(&["md5=:AA==:"], Err("bad_digest"));
    }
}

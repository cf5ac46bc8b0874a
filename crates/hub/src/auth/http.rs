//! Sign-in, passwords, tokens, users: the wire.

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Extension, Json, Router};
use munjigi_events::UserId;
use munjigi_foundation::api::{Problem, read_json};
use munjigi_foundation::clock::Timestamp;
use munjigi_foundation::settings::{Secret, parse_duration};
use serde::Deserialize;
use serde_json::json;
use std::time::Duration;

use super::{Auth, AuthError, COOKIE, Credential, SIGN_IN_HEADER, Signed};
use crate::face::Arrival;
use crate::pages::Pages;
use crate::store::users::UserRow;

/// The largest JSON body here.
const BODY_MAX: usize = 16 * 1024;
/// How long a new user's link is valid.
const NEW_USER_LINK: Duration = Duration::from_secs(3 * 86_400);
/// How long a browser keeps the cookie; the session itself ends earlier when it is not used.
const COOKIE_AGE: Duration = Duration::from_secs(90 * 86_400);

#[derive(Clone)]
struct Door {
    auth: Auth,
    pages: Pages,
}

/// The paths of users.
pub(crate) fn router(auth: Auth, pages: Pages) -> Router {
    Router::new()
        .route("/sign-in", get(sign_in_by_link))
        .route("/api/sign-in", post(sign_in))
        .route("/api/sign-out", post(sign_out))
        .route("/api/me", get(me))
        .route("/api/me/password", put(set_password))
        .route("/api/tokens", get(tokens).post(new_token))
        .route("/api/tokens/{id}", delete(revoke))
        .route("/api/users", get(users).post(new_user))
        .route("/api/users/{id}", delete(remove_user))
        .route("/api/users/{id}/sign-in", post(new_link))
        .route("/api/admin/users", get(users))
        .with_state(Door { auth, pages })
}

impl AuthError {
    fn problem(&self) -> Problem {
        let says = self.to_string();
        let problem = |status, code| Problem::new(status, code, says.clone());
        match self {
            Self::Wrong => problem(StatusCode::UNAUTHORIZED, "wrong_password"),
            Self::Wait(wait) => problem(StatusCode::TOO_MANY_REQUESTS, "wait")
                .retry_after(wait.as_secs().saturating_add(1)),
            Self::UnknownLink => problem(StatusCode::UNAUTHORIZED, "unknown_link")
                .hint("ask an administrator for a new link, or start the hub again"),
            Self::SpentLink => problem(StatusCode::GONE, "spent_link")
                .hint("ask an administrator for a new link, or start the hub again"),
            Self::Busy => problem(StatusCode::SERVICE_UNAVAILABLE, "busy").retry_after(2),
            Self::Invalid(_) => problem(StatusCode::BAD_REQUEST, "invalid"),
            Self::Taken => problem(StatusCode::CONFLICT, "name_taken"),
            Self::Full(_) => problem(StatusCode::CONFLICT, "too_many_users"),
            Self::TooManyTokens => problem(StatusCode::CONFLICT, "too_many_tokens")
                .hint("revoke one that is no longer used"),
            Self::FirstUser => problem(StatusCode::CONFLICT, "first_user"),
            Self::NotFound(what) => Problem::not_found(what),
            Self::Changed => problem(StatusCode::CONFLICT, "password_changed"),
            Self::Random(_) | Self::Password(_) | Self::Store(_) => {
                tracing::error!(error = %self, "users could not be read or changed");
                Problem::internal()
            }
        }
    }

    /// True for what a guesser of secrets meets.
    fn is_failed_sign_in(&self) -> bool {
        matches!(self, Self::Wrong | Self::UnknownLink)
    }
}

impl IntoResponse for AuthError {
    fn into_response(self) -> Response {
        let mut response = self.problem().into_response();
        if self.is_failed_sign_in() {
            mark_failed(&mut response);
        }
        response
    }
}

fn mark_failed(response: &mut Response) {
    response.headers_mut().insert(
        HeaderName::from_static(SIGN_IN_HEADER),
        HeaderValue::from_static("failed"),
    );
}

#[derive(Deserialize)]
struct LinkQuery {
    token: Option<String>,
}

/// A link that signs in, once; without a token, the page to sign in.
async fn sign_in_by_link(
    State(door): State<Door>,
    Extension(arrival): Extension<Arrival>,
    Query(query): Query<LinkQuery>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    let Some(token) = query.token else {
        return door.pages.shell(&headers);
    };
    let mut response = if method == Method::HEAD {
        // Looking at a link must not use it up.
        StatusCode::NO_CONTENT.into_response()
    } else {
        match door.auth.sign_in_by_link(&token).await {
            Ok(session) => {
                let mut response = StatusCode::SEE_OTHER.into_response();
                let root = HeaderValue::from_static("/");
                response.headers_mut().insert(header::LOCATION, root);
                set_cookie(&mut response, Some(&session), arrival.https);
                response
            }
            Err(error) if wants_page(&headers) => failed_page(&door.pages, &error),
            Err(error) => error.into_response(),
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::REFERRER_POLICY,
        HeaderValue::from_static("no-referrer"),
    );
    response
}

fn wants_page(headers: &HeaderMap) -> bool {
    headers
        .get(header::ACCEPT)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.contains("text/html"))
}

/// The page to sign in, with the status of what went wrong.
fn failed_page(pages: &Pages, error: &AuthError) -> Response {
    let problem = error.problem();
    let mut response = pages.shell_whole();
    *response.status_mut() = problem.status;
    if error.is_failed_sign_in() {
        mark_failed(&mut response);
    }
    response
}

fn set_cookie(response: &mut Response, session: Option<&Secret>, https: bool) {
    let secure = if https { "; Secure" } else { "" };
    // Lax: the link that signs in is opened from elsewhere, and its answer leads on to the page.
    let cookie = match session {
        Some(session) => format!(
            "{COOKIE}={}; Path=/; HttpOnly; SameSite=Lax; Max-Age={}{secure}",
            session.expose(),
            COOKIE_AGE.as_secs()
        ),
        None => format!("{COOKIE}=; Path=/; HttpOnly; SameSite=Lax; Max-Age=0{secure}"),
    };
    if let Ok(mut value) = HeaderValue::from_str(&cookie) {
        value.set_sensitive(true);
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
}

#[derive(Deserialize)]
struct SignIn {
    name: String,
    password: String,
}

async fn sign_in(
    State(door): State<Door>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
    body: Body,
) -> Response {
    // Nobody is signed in yet, but a foreign page must not sign its visitor in either.
    if headers.contains_key(header::ORIGIN) && !arrival.is_same_origin(&headers) {
        return crate::face::foreign_origin().into_response();
    }
    let asked: SignIn = match read_json(body, BODY_MAX).await {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    let password = Secret::new(&asked.password);
    let session = door
        .auth
        .sign_in_by_password(asked.name.trim(), password, arrival.client);
    match session.await {
        Ok(session) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            set_cookie(&mut response, Some(&session), arrival.https);
            response
        }
        Err(error) => error.into_response(),
    }
}

async fn sign_out(
    State(door): State<Door>,
    Extension(arrival): Extension<Arrival>,
    headers: HeaderMap,
) -> Response {
    match door.auth.sign_out(&headers).await {
        Ok(()) => {
            let mut response = StatusCode::NO_CONTENT.into_response();
            set_cookie(&mut response, None, arrival.https);
            response
        }
        Err(error) => error.into_response(),
    }
}

async fn me(
    State(door): State<Door>,
    Extension(signed): Extension<Signed>,
) -> Result<Response, AuthError> {
    let user = &signed.user;
    let password = door.auth.has_password(&user.id).await?;
    let me =
        json!({ "userId": user.id, "name": user.name, "admin": user.admin, "password": password });
    Ok(Json(me).into_response())
}

#[derive(Deserialize)]
struct NewPassword {
    current: Option<String>,
    password: String,
}

async fn set_password(
    State(door): State<Door>,
    Extension(signed): Extension<Signed>,
    Extension(arrival): Extension<Arrival>,
    body: Body,
) -> Response {
    let asked: NewPassword = match read_json(body, BODY_MAX).await {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    let current = asked.current.as_deref().map(Secret::new);
    let password = Secret::new(&asked.password);
    let set = door
        .auth
        .set_password(&signed, current, password, arrival.client);
    match set.await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        // Signed in all the same: 403, and the page does not send its user to sign in again.
        Err(error @ AuthError::Wrong) => {
            let mut problem = error.problem();
            problem.status = StatusCode::FORBIDDEN;
            problem.title = "Forbidden";
            let mut response = problem.into_response();
            mark_failed(&mut response);
            response
        }
        Err(error) => error.into_response(),
    }
}

#[derive(Deserialize)]
struct NewToken {
    name: String,
    /// A moment (RFC 3339) or a duration from now (`30d`).
    expires: Option<String>,
}

async fn new_token(
    State(door): State<Door>,
    Extension(signed): Extension<Signed>,
    body: Body,
) -> Response {
    if let Credential::Token(_) = signed.by {
        let problem = Problem::new(
            StatusCode::FORBIDDEN,
            "session_needed",
            "a token can't make tokens; sign in with a browser",
        );
        return problem.into_response();
    }
    let asked: NewToken = match read_json(body, BODY_MAX).await {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    let made = async {
        let expires = match asked.expires.as_deref() {
            None => None,
            Some(written) => Some(moment(written, &door.auth)?),
        };
        door.auth
            .new_token(&signed.user.id, &asked.name, expires)
            .await
    };
    match made.await {
        Ok((id, token)) => {
            let shown = json!({ "id": id, "token": token.expose() });
            (StatusCode::CREATED, Json(shown)).into_response()
        }
        Err(error) => error.into_response(),
    }
}

fn moment(written: &str, auth: &Auth) -> Result<Timestamp, AuthError> {
    if let Ok(moment) = Timestamp::parse(written) {
        return Ok(moment);
    }
    let duration = parse_duration(written).map_err(|_| {
        AuthError::Invalid(
            "`expires` must be a moment such as \"2027-01-31T00:00:00Z\" or a duration such as \"30d\"".to_owned(),
        )
    })?;
    Ok(auth.0.clock.now().plus(duration))
}

async fn tokens(
    State(door): State<Door>,
    Extension(signed): Extension<Signed>,
) -> Result<Response, AuthError> {
    let tokens: Vec<_> = door
        .auth
        .tokens(&signed.user.id)
        .await?
        .into_iter()
        .map(|token| {
            json!({
                "id": token.id,
                "name": token.name,
                "createdAt": token.created_at,
                "expires": token.expires_at,
                "lastUsed": token.used_at,
            })
        })
        .collect();
    Ok(Json(json!({ "tokens": tokens })).into_response())
}

async fn revoke(
    State(door): State<Door>,
    Extension(signed): Extension<Signed>,
    Path(id): Path<String>,
) -> Result<StatusCode, AuthError> {
    door.auth.revoke(&signed.user.id, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn users(State(door): State<Door>) -> Result<Response, AuthError> {
    let users = door.auth.users().await?;
    let users: Vec<_> = users.iter().map(shown).collect();
    Ok(Json(json!({ "users": users })).into_response())
}

fn shown(user: &UserRow) -> serde_json::Value {
    json!({
        "userId": user.id,
        "name": user.name,
        "admin": user.admin,
        "password": user.has_password,
        "createdAt": user.created_at,
    })
}

#[derive(Deserialize)]
struct NewUser {
    name: String,
    #[serde(default)]
    admin: bool,
}

async fn new_user(
    State(door): State<Door>,
    Extension(arrival): Extension<Arrival>,
    body: Body,
) -> Response {
    let asked: NewUser = match read_json(body, BODY_MAX).await {
        Ok(asked) => asked,
        Err(problem) => return problem.into_response(),
    };
    let made = async {
        let id = door.auth.new_user(&asked.name, asked.admin).await?;
        link_for(&door.auth, id, &arrival).await
    };
    made.await.unwrap_or_else(AuthError::into_response)
}

/// A new link for somebody who lost theirs.
async fn new_link(
    State(door): State<Door>,
    Extension(arrival): Extension<Arrival>,
    Path(id): Path<String>,
) -> Result<Response, AuthError> {
    let user = door.auth.user(&UserId(id)).await?;
    link_for(&door.auth, user.id, &arrival).await
}

async fn link_for(auth: &Auth, id: UserId, arrival: &Arrival) -> Result<Response, AuthError> {
    let link = auth.link(&id, NEW_USER_LINK).await?;
    let url = format!("{}/sign-in?token={}", arrival.origin(), link.expose());
    Ok((
        StatusCode::CREATED,
        Json(json!({ "userId": id, "signIn": url })),
    )
        .into_response())
}

async fn remove_user(
    State(door): State<Door>,
    Path(id): Path<String>,
) -> Result<StatusCode, AuthError> {
    door.auth.remove_user(&UserId(id)).await?;
    Ok(StatusCode::NO_CONTENT)
}

//! `POST /attestation`: a token of the launcher's for the client's nonces and this server's identity.
//!
//! The launcher attests anew each time, one call after the other, behind a lock that its own token refresh needs:
//! strangers get one call at a time, one for all who ask the same, and so many a minute.
//! Must not touch: what a token says.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use axum::Json;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;

use crate::attestation::{LauncherSocket, TokenRequest};
use crate::protocol::{
    AUDIENCE_PREFIX, AttestationRequest, ErrorCode, Evidence, Identity, MAX_ATTESTATION_REQUEST_BYTES,
    MAX_CLIENT_NONCES, ServerId,
};
use crate::server::admit::body;
use crate::server::error::ApiError;
use crate::server::observation::Observation;
use crate::server::state::App;
use crate::telemetry::{Endpoint, VERSION};

/// The time for a token, from the first request for it: waiting for other calls of the launcher, and its own, which
/// takes seconds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// Requests that wait for the launcher; more are told to come again.
const MAX_FLIGHTS: usize = 8;

/// The handler.
pub(crate) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let mut observation = Observation::start(&app, Endpoint::Attestation);
    let evidence = answer(&app, request);
    let evidence = tokio::time::timeout_at(observation.deadline(), evidence).await;
    match evidence.unwrap_or(Err(ErrorCode::DeadlineExceeded.into())) {
        Ok(evidence) => {
            observation.succeeded();
            Json(evidence).into_response()
        }
        Err(error) => {
            observation.failed(error.code());
            error.into_response()
        }
    }
}

async fn answer(app: &App, request: Request) -> Result<Evidence, ApiError> {
    app.loaded()?;
    let body = body::read(request, MAX_ATTESTATION_REQUEST_BYTES, app.limits.body_timeout).await?;
    let request: AttestationRequest = serde_json::from_slice(&body).map_err(|_| ErrorCode::InvalidRequest)?;
    app.attestor.evidence(request).await
}

/// Asks the launcher on behalf of strangers.
#[derive(Debug)]
pub(crate) struct Attestor {
    server: ServerId,
    identity: OnceLock<Identity>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    socket: Option<LauncherSocket>,
    /// One call at a time.
    turn: Semaphore,
    state: Mutex<Calls>,
}

#[derive(Debug)]
struct Calls {
    flights: HashMap<AttestationRequest, watch::Receiver<Option<Outcome>>>,
    rate: Rate,
}

type Outcome = Result<Arc<str>, ErrorCode>;

/// So many calls a minute, a few of them at once.
#[derive(Debug)]
struct Rate {
    per_minute: u32,
    left: f64,
    at: Instant,
}

/// A call that is under way; lands however its task ends.
struct Flight {
    shared: Arc<Shared>,
    request: AttestationRequest,
    done: watch::Sender<Option<Outcome>>,
}

impl Attestor {
    /// Tokens of `socket`, at most `per_minute`, for the process that is called `server`.
    pub(crate) fn new(socket: Option<LauncherSocket>, per_minute: u32, server: ServerId) -> Self {
        let state = Calls { flights: HashMap::new(), rate: Rate::new(per_minute) };
        let shared = Shared { socket, turn: Semaphore::new(1), state: Mutex::new(state) };
        Self { server, identity: OnceLock::new(), shared: Arc::new(shared) }
    }

    /// What this process is called.
    pub(crate) fn server(&self) -> ServerId {
        self.server
    }

    /// Says what this process turned out to run. Only the first time counts.
    pub(crate) fn set_identity(&self, identity: Identity) {
        self.identity.get_or_init(|| identity);
    }

    /// A token for the client's nonces and this server's.
    ///
    /// # Errors
    /// [`ErrorCode::InvalidParameter`], [`ErrorCode::ServerBusy`], [`ErrorCode::AttestationUnavailable`], or
    /// [`ErrorCode::Starting`] while the identity is not known.
    async fn evidence(&self, request: AttestationRequest) -> Result<Evidence, ApiError> {
        check(&request)?;
        let identity = *self.identity.get().ok_or(ErrorCode::Starting)?;
        let mut flight = self.join(request, identity)?;
        let landed = flight.wait_for(Option::is_some).await;
        // The task goes without landing only if it panics or the runtime ends.
        let token = landed.ok().and_then(|outcome| outcome.clone()).unwrap_or(Err(ErrorCode::Internal))?;
        Ok(Evidence { token: token.as_ref().to_owned(), version: VERSION.to_owned(), identity })
    }

    fn join(
        &self,
        request: AttestationRequest,
        identity: Identity,
    ) -> Result<watch::Receiver<Option<Outcome>>, ApiError> {
        if self.shared.socket.is_none() {
            return Err(ErrorCode::AttestationUnavailable.into());
        }
        let mut state = self.shared.state();
        if let Some(flight) = state.flights.get(&request) {
            return Ok(flight.clone());
        }
        if state.flights.len() >= MAX_FLIGHTS || !state.rate.take() {
            return Err(ErrorCode::ServerBusy.into());
        }
        let (done, flight) = watch::channel(None);
        state.flights.insert(request.clone(), flight.clone());
        let flying = Flight { shared: Arc::clone(&self.shared), request, done };
        // A task of its own: whoever asked first may go away without failing the others.
        tokio::spawn(flying.fly(identity));
        Ok(flight)
    }
}

/// What the launcher would take, and nothing that could be meant for somebody else.
fn check(request: &AttestationRequest) -> Result<(), ApiError> {
    let name = request.audience.strip_prefix(AUDIENCE_PREFIX).unwrap_or_default();
    if !(1..=500).contains(&name.len()) || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(ApiError::parameter("the audience must be codeseal: and 1 to 500 printable characters"));
    }
    let is_nonce = |nonce: &String| {
        (10..=74).contains(&nonce.len())
            && nonce.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+/=".contains(&byte))
    };
    if !(1..=MAX_CLIENT_NONCES).contains(&request.nonces.len()) || !request.nonces.iter().all(is_nonce) {
        return Err(ApiError::parameter(
            "there must be 1 to 3 nonces, each of 10 to 74 characters of base64 or hexadecimal digits",
        ));
    }
    Ok(())
}

impl Flight {
    async fn fly(self, identity: Identity) {
        let outcome = tokio::time::timeout(TIMEOUT, self.call(identity)).await;
        let outcome = outcome.unwrap_or(Err(ErrorCode::AttestationUnavailable));
        self.shared.state().flights.remove(&self.request);
        self.done.send_replace(Some(outcome));
    }

    async fn call(&self, identity: Identity) -> Outcome {
        let unavailable = || ErrorCode::AttestationUnavailable;
        let socket = self.shared.socket.as_ref().ok_or_else(unavailable)?;
        // The semaphore is never closed.
        let _turn = self.shared.turn.acquire().await.map_err(|_| ErrorCode::Internal)?;
        let AttestationRequest { audience, nonces, token_type } = self.request.clone();
        let nonces = nonces.into_iter().chain(identity.nonces()).collect();
        let request =
            TokenRequest::new(audience, nonces, token_type).map_err(|_| ErrorCode::InvalidParameter)?;
        let token = socket.token(&request).await.map_err(|_| unavailable())?;
        // It is for whoever asked, and no secret: nobody can do anything with it but verify it.
        Ok(token.expose().as_str().into())
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        // After landing there is nothing to remove, unless the next flight for this request has started already.
        let mut state = self.shared.state();
        let is_mine = |flight: &watch::Receiver<_>| flight.same_channel(&self.done.subscribe());
        if state.flights.get(&self.request).is_some_and(is_mine) {
            state.flights.remove(&self.request);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Calls> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Rate {
    fn new(per_minute: u32) -> Self {
        Self { per_minute, left: Self::burst(per_minute), at: Instant::now() }
    }

    /// A sixth of a minute's calls may come at once.
    fn burst(per_minute: u32) -> f64 {
        f64::from(per_minute.div_ceil(6).max(1))
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let gained = (now - self.at).as_secs_f64() * f64::from(self.per_minute)
            / Duration::from_secs(60).as_secs_f64();
        self.left = (self.left + gained).min(Self::burst(self.per_minute));
        self.at = now;
        let may = self.left >= 1.0;
        if may {
            self.left -= 1.0;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::TokenType;

    fn request(audience: &str, nonces: &[&str]) -> AttestationRequest {
        let nonces = nonces.iter().map(ToString::to_string).collect();
        AttestationRequest { audience: audience.to_owned(), nonces, token_type: TokenType::Oidc }
    }

    #[test]
    fn no_token_is_made_that_somebody_else_would_take() {
        let nonce = "0123456789";
        assert!(check(&request("codeseal:primus", &[nonce])).is_ok());
        for audience in [
            "https://sts.googleapis.com",
            "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/w/providers/v",
            "https://vault.primus.example",
            "codeseal:",
            "Codeseal:primus",
            " codeseal:primus",
            "codeseal:a b",
            &format!("codeseal:{}", "x".repeat(501)),
        ] {
            let error = check(&request(audience, &[nonce])).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidParameter, "{audience}");
        }
        for nonces in [&[][..], &["short"], &[&"x".repeat(75)], &["a nonce with blanks"], &[nonce; 4]] {
            assert!(check(&request("codeseal:primus", nonces)).is_err(), "{nonces:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn all_who_wait_for_a_launcher_that_hangs_are_answered_within_the_one_bound() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launcher");
        // It takes connections and never answers.
        let _launcher = tokio::net::UnixListener::bind(&path).unwrap();
        let server = ServerId::generate().unwrap();
        let attestor = Attestor::new(Some(LauncherSocket::new(path, TIMEOUT)), 6000, server);
        let digest = crate::protocol::Digest::new([0; 32]);
        attestor.set_identity(Identity { build: digest, weights: digest, server });
        let started = Instant::now();
        let questions = (0..MAX_FLIGHTS)
            .map(|number| attestor.evidence(request("codeseal:primus", &[&format!("0123456789{number}")])));
        for answer in futures_util::future::join_all(questions).await {
            assert_eq!(answer.unwrap_err().code(), ErrorCode::AttestationUnavailable);
        }
        assert_eq!(started.elapsed(), TIMEOUT);
        assert!(attestor.shared.state().flights.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_a_minute_and_a_few_of_them_at_once() {
        let mut rate = Rate::new(30);
        assert_eq!((0..10).filter(|_| rate.take()).count(), 5);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(rate.take() && !rate.take());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..10).filter(|_| rate.take()).count(), 5, "what was not used is not saved up");
    }
}

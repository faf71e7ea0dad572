//! Attestation tokens for clients: one call of the launcher at a time, one for all clients that ask the same
//! (single-flight), and a bound per minute.
//!
//! The launcher attests for each call, one after the other, behind a lock that its own token refresh needs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};

use crate::attestation::{LauncherSocket, TokenRequest};
use crate::protocol::{
    AUDIENCE_PREFIX, AttestationRequest, ErrorCode, Evidence, Identity, MAX_CLIENT_NONCES, ServerId,
};
use crate::rate::RateLimit;
use crate::server::error::ApiError;
use crate::telemetry::VERSION;

/// The time for a token, from the first request for it: waiting for other calls of the launcher, and its own, which
/// takes seconds.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(15);
/// Calls that wait for the launcher; more are refused with 429.
const MAX_IN_FLIGHT: usize = 8;

/// Gets tokens from the launcher for clients.
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
    in_flight: HashMap<AttestationRequest, watch::Receiver<Option<TokenResult>>>,
    rate: RateLimit,
}

type TokenResult = Result<Arc<str>, ErrorCode>;

/// A call that is under way; it leaves the map however its task ends.
struct InFlight {
    shared: Arc<Shared>,
    request: AttestationRequest,
    done: watch::Sender<Option<TokenResult>>,
}

impl Attestor {
    /// Tokens of `socket`, at most `per_minute`, for the process that is called `server`.
    pub(crate) fn new(socket: Option<LauncherSocket>, per_minute: u32, server: ServerId) -> Self {
        let state = Calls { in_flight: HashMap::new(), rate: RateLimit::new(per_minute, burst(per_minute)) };
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
    pub(crate) async fn evidence(&self, request: AttestationRequest) -> Result<Evidence, ApiError> {
        check(&request)?;
        let identity = *self.identity.get().ok_or(ErrorCode::Starting)?;
        let mut call = self.join(request, identity)?;
        let finished = call.wait_for(Option::is_some).await;
        // The task ends without a result only if it panics or the runtime ends.
        let token = finished.ok().and_then(|token| token.clone()).unwrap_or(Err(ErrorCode::Internal))?;
        Ok(Evidence { token: token.as_ref().to_owned(), version: VERSION.to_owned(), identity })
    }

    fn join(
        &self,
        request: AttestationRequest,
        identity: Identity,
    ) -> Result<watch::Receiver<Option<TokenResult>>, ApiError> {
        if self.shared.socket.is_none() {
            return Err(ErrorCode::AttestationUnavailable.into());
        }
        let mut state = self.shared.state();
        if let Some(call) = state.in_flight.get(&request) {
            return Ok(call.clone());
        }
        if state.in_flight.len() >= MAX_IN_FLIGHT || !state.rate.take() {
            return Err(ErrorCode::ServerBusy.into());
        }
        let (done, result) = watch::channel(None);
        state.in_flight.insert(request.clone(), result.clone());
        let call = InFlight { shared: Arc::clone(&self.shared), request, done };
        // A task of its own: the first client may go away without failing the others.
        tokio::spawn(call.run(identity));
        Ok(result)
    }
}

impl InFlight {
    async fn run(self, identity: Identity) {
        let token = tokio::time::timeout(TIMEOUT, self.call(identity)).await;
        let token = token.unwrap_or(Err(ErrorCode::AttestationUnavailable));
        self.shared.state().in_flight.remove(&self.request);
        self.done.send_replace(Some(token));
    }

    async fn call(&self, identity: Identity) -> TokenResult {
        let unavailable = || ErrorCode::AttestationUnavailable;
        let socket = self.shared.socket.as_ref().ok_or_else(unavailable)?;
        // The semaphore is never closed.
        let _turn = self.shared.turn.acquire().await.map_err(|_| ErrorCode::Internal)?;
        let AttestationRequest { audience, nonces, token_type } = self.request.clone();
        let nonces = nonces.into_iter().chain(identity.nonces()).collect();
        let request =
            TokenRequest::new(audience, nonces, token_type).map_err(|_| ErrorCode::InvalidParameter)?;
        let token = socket.token(&request).await.map_err(|_| unavailable())?;
        // No secret: it can only be verified.
        Ok(token.expose().as_str().into())
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        // After a result there is nothing to remove, unless the next call for this request has started already.
        let mut state = self.shared.state();
        let is_mine = |call: &watch::Receiver<_>| call.same_channel(&self.done.subscribe());
        if state.in_flight.get(&self.request).is_some_and(is_mine) {
            state.in_flight.remove(&self.request);
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, Calls> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses what the launcher would refuse, and audiences other than ours: no other service may accept the token.
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

/// A sixth of a minute's calls may come at once.
fn burst(per_minute: u32) -> u32 {
    per_minute.div_ceil(6).max(1)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::protocol::TokenType;

    fn request(audience: &str, nonces: &[&str]) -> AttestationRequest {
        let nonces = nonces.iter().map(ToString::to_string).collect();
        AttestationRequest { audience: audience.to_owned(), nonces, token_type: TokenType::Oidc }
    }

    #[test]
    fn no_token_is_made_that_another_service_would_accept() {
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
    async fn requests_that_wait_for_a_launcher_that_hangs_are_answered_within_one_timeout() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("launcher");
        // It takes connections and never answers.
        let _launcher = tokio::net::UnixListener::bind(&path).unwrap();
        let server = ServerId::generate().unwrap();
        let attestor = Attestor::new(Some(LauncherSocket::new(path, TIMEOUT)), 6000, server);
        let digest = crate::protocol::Digest::new([0; 32]);
        attestor.set_identity(Identity { build: digest, weights: digest, server });
        let started = Instant::now();
        let questions = (0..MAX_IN_FLIGHT)
            .map(|number| attestor.evidence(request("codeseal:primus", &[&format!("0123456789{number}")])));
        for answer in futures_util::future::join_all(questions).await {
            assert_eq!(answer.unwrap_err().code(), ErrorCode::AttestationUnavailable);
        }
        assert_eq!(started.elapsed(), TIMEOUT);
        assert!(attestor.shared.state().in_flight.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn calls_per_minute_and_at_once_are_bounded() {
        let rate = RateLimit::new(30, burst(30));
        assert_eq!((0..10).filter(|_| rate.take()).count(), 5);
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(rate.take() && !rate.take());
        tokio::time::advance(Duration::from_secs(3600)).await;
        assert_eq!((0..10).filter(|_| rate.take()).count(), 5, "what was not used is not saved up");
    }
}

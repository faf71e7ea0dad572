//! The container launcher: the directory with the token file and the socket that makes tokens.
//!
//! The file is written beside its place and renamed into it, and refreshed at 0.7 to 0.9 of the token's life.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use serde_json::Value;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::issuer::{STS_AUDIENCE, unix_now};
use super::{SandboxError, Shared, serve};
use crate::protocol::TokenType;
use crate::secret::Secret;

/// The name of the token file, as in `/run/container_launcher`.
pub const TOKEN_FILE: &str = "attestation_verifier_claims_token";
/// The name of the socket beside it.
pub const SOCKET: &str = "teeserver.sock";

/// The launcher of one workload.
pub struct Launcher {
    inner: Arc<Inner>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
    stop: CancellationToken,
    _stop_when_dropped: DropGuard,
}

/// Which launcher is played.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Build {
    /// That of the codelab's VM image: `GET` gives the file's bytes or 404, and every error of `POST` is a 400.
    Preview,
    /// A current one: `GET` makes a new attestation, and errors of the attestation service are a 500.
    #[default]
    Current,
}

/// What the launcher's tasks share.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) build: Build,
    token_file: PathBuf,
    socket: PathBuf,
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    claims: Value,
    lifetime: Duration,
    /// The token file is as a test wants it: the background task leaves it alone.
    held: bool,
}

impl Launcher {
    pub(super) async fn start(
        shared: Arc<Shared>,
        claims: Value,
        dir: &Path,
        lifetime: Duration,
        build: Build,
        router: fn(Arc<Inner>) -> Router,
    ) -> Result<Self, SandboxError> {
        tokio::fs::create_dir_all(dir).await.map_err(SandboxError::Directory)?;
        let socket = dir.join(SOCKET);
        // One that an earlier run left behind would keep the address in use.
        match tokio::fs::remove_file(&socket).await {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(SandboxError::Directory(error));
            }
            _ => {}
        }
        let listener = UnixListener::bind(&socket).map_err(SandboxError::Socket)?;
        let inner = Arc::new(Inner {
            shared,
            build,
            token_file: dir.join(TOKEN_FILE),
            socket,
            state: Mutex::new(State { claims, lifetime, held: false }),
            changed: Notify::new(),
        });
        inner.write_fresh()?;
        let stop = CancellationToken::new();
        let refresh = stop.clone().run_until_cancelled_owned(refresh(Arc::clone(&inner)));
        let tasks = vec![
            tokio::spawn(async move {
                // Cancelled or not, there is nothing more to do.
                refresh.await.unwrap_or_default();
            }),
            tokio::spawn(serve::serve(listener, router(Arc::clone(&inner)), stop.clone())),
        ];
        let _stop_when_dropped = stop.clone().drop_guard();
        Ok(Self { inner, tasks: Mutex::new(tasks), stop, _stop_when_dropped })
    }

    /// The token file.
    pub fn token_file(&self) -> &Path {
        &self.inner.token_file
    }

    /// The socket.
    pub fn socket(&self) -> &Path {
        &self.inner.socket
    }

    /// Which launcher is played.
    pub fn build(&self) -> Build {
        self.inner.build
    }

    /// The claims that go into the tokens.
    pub fn claims(&self) -> Value {
        self.inner.lock().claims.clone()
    }

    /// Puts other claims into the tokens, which live for `lifetime` (whole seconds), and writes a fresh one.
    ///
    /// # Errors
    /// [`SandboxError::Claims`] if the claims are no JSON object; the file cannot be written.
    pub fn write_token(&self, claims: Value, lifetime: Duration) -> Result<(), SandboxError> {
        if !claims.is_object() {
            return Err(SandboxError::Claims);
        }
        {
            let mut state = self.inner.lock();
            state.claims = claims;
            state.lifetime = lifetime;
        }
        self.refresh()
    }

    /// Writes a fresh token and goes on refreshing it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn refresh(&self) -> Result<(), SandboxError> {
        self.inner.hold(false);
        self.inner.write_fresh()
    }

    /// Puts a token into the file that expired an hour ago, and stops refreshing it until [`Launcher::refresh`].
    ///
    /// The socket goes on making good ones: inject [`super::Fault::LauncherStatus`] where it should not.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn expire(&self) -> Result<(), SandboxError> {
        self.inner.hold(true);
        let claims = self.inner.default_claims();
        let now = unix_now();
        let token = self.inner.shared.issuer.sign_between(&claims, now - 7200, now - 3600)?;
        self.inner.write(&token)
    }

    /// Removes the file and stops refreshing it until [`Launcher::refresh`].
    ///
    /// # Errors
    /// The file is there and cannot be removed.
    pub fn remove(&self) -> Result<(), SandboxError> {
        self.inner.hold(true);
        match std::fs::remove_file(&self.inner.token_file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(SandboxError::Directory(error)),
            _ => Ok(()),
        }
    }

    /// Puts `text` into the file instead of a token, and stops refreshing it until [`Launcher::refresh`].
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_raw(&self, text: &str) -> Result<(), SandboxError> {
        self.inner.hold(true);
        self.inner.write(&Secret::new(text.to_owned()))
    }

    /// Ends the socket and the refreshing. The files stay.
    pub async fn shutdown(self) {
        self.end().await;
    }

    /// The same where the launcher is shared.
    pub(super) async fn end(&self) {
        self.stop.cancel();
        let tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        for task in tasks {
            // A task that panicked has been reported by the runtime.
            task.await.unwrap_or_default();
        }
    }
}

impl Inner {
    /// The claims of the default token: meant for the token exchange, without a nonce.
    pub(super) fn default_claims(&self) -> Value {
        self.claims_for(STS_AUDIENCE, &[])
    }

    /// The claims of a token that the workload asked for: one nonce is a text, several are a list.
    pub(super) fn claims_for(&self, audience: &str, nonces: &[String]) -> Value {
        let mut claims = self.lock().claims.clone();
        if let Some(claims) = claims.as_object_mut() {
            claims.insert("aud".to_owned(), audience.into());
            match nonces {
                [] => claims.remove("eat_nonce"),
                [nonce] => claims.insert("eat_nonce".to_owned(), nonce.as_str().into()),
                nonces => claims.insert("eat_nonce".to_owned(), nonces.into()),
            };
        }
        claims
    }

    /// Signs a token of the type `kind` with `claims` for as long as this launcher's tokens live.
    pub(super) fn sign(&self, kind: TokenType, claims: &Value) -> Result<Secret<String>, SandboxError> {
        let lifetime = self.lock().lifetime;
        self.shared.issuer.sign_as(kind, claims, lifetime)
    }

    /// The bytes of the token file.
    pub(super) async fn token_bytes(&self) -> io::Result<Vec<u8>> {
        tokio::fs::read(&self.token_file).await
    }

    fn write_fresh(&self) -> Result<(), SandboxError> {
        let token = self.sign(TokenType::Oidc, &self.default_claims())?;
        self.write(&token)
    }

    fn write(&self, token: &Secret<String>) -> Result<(), SandboxError> {
        let beside = self.token_file.with_file_name(".token.tmp");
        std::fs::write(&beside, token.expose())
            .and_then(|()| std::fs::rename(&beside, &self.token_file))
            .map_err(SandboxError::Directory)?;
        self.shared.ledger.count(|counts| counts.token_files += 1);
        Ok(())
    }

    /// Stops or resumes the background refresh, whose wait starts again.
    fn hold(&self, held: bool) {
        self.lock().held = held;
        self.changed.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the token file fresh; after a failure the next attempt is a sixtieth of the token's life away, then twice
/// that, and so on up to its whole life (exponential backoff), times a random factor from 0.5 to 1.5.
async fn refresh(inner: Arc<Inner>) {
    let mut failures = 0u32;
    loop {
        let lifetime = inner.lock().lifetime;
        let wait = if failures == 0 {
            lifetime.mul_f64(0.7 + 0.2 * random_fraction())
        } else {
            let backoff = (lifetime / 60).saturating_mul(1 << (failures - 1).min(6)).min(lifetime);
            backoff.mul_f64(0.5 + random_fraction())
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = inner.changed.notified() => {
                failures = 0;
                continue;
            }
        }
        if inner.lock().held {
            continue;
        }
        if inner.shared.faults.attestation_is_down() || inner.write_fresh().is_err() {
            failures = failures.saturating_add(1);
            inner.shared.ledger.count(|counts| counts.failed_refreshes += 1);
        } else {
            failures = 0;
        }
    }
}

/// A number from 0 to 1; one half if the OS random number generator failed.
fn random_fraction() -> f64 {
    let mut byte = [128];
    match getrandom::fill(&mut byte) {
        Ok(()) => f64::from(byte[0]) / 255.0,
        Err(_) => 0.5,
    }
}

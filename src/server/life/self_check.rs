//! Checks this machine's attestation token against the profile, before a port is opened.

use std::time::Duration;

use tokio::time::Instant;

use super::failure::ServeError;
use crate::attestation::{AttestationError, Claims, LauncherSocket, Profile, TokenSource};
use crate::keys::KmsConfig;
use crate::telemetry::{self, Event};

/// How long to wait for a token that may still be written.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two attempts.
const PAUSE: Duration = Duration::from_millis(500);

/// Where the launcher's token comes from.
pub(crate) fn token_source(kms: &KmsConfig) -> TokenSource {
    TokenSource::new(&kms.token_file, launcher(kms, kms.timeouts.launcher))
}

/// The launcher's socket, if there is to be one; a call of it may take `timeout`.
pub(crate) fn launcher(kms: &KmsConfig, timeout: Duration) -> Option<LauncherSocket> {
    kms.token_socket.as_ref().map(|path| LauncherSocket::new(path, timeout))
}

/// Holds the launcher's token against `profile`.
///
/// # Errors
/// The token says otherwise, or there is none.
pub(crate) async fn check(tokens: &TokenSource, profile: Profile) -> Result<(), ServeError> {
    let deadline = Instant::now() + PATIENCE;
    let token = loop {
        match tokens.token().await {
            Ok(token) => break token,
            Err(error) if is_transient(error) && Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    // Not verified: it is this machine's own launcher's, and an attacker who can forge it can also change this program.
    profile.check(&Claims::peek(token.expose())?)?;
    telemetry::emit(Event::AttestationVerified);
    Ok(())
}

/// Says which path is wrong, for errors that are about a path. It is part of the configuration, and no secret.
pub(crate) fn named(error: ServeError, kms: &KmsConfig) -> ServeError {
    let ServeError::Attestation(source) = error else { return error };
    let path = match source {
        AttestationError::NotAFile | AttestationError::TooLong => Some(&kms.token_file),
        AttestationError::NotASocket => kms.token_socket.as_ref(),
        _ => None,
    };
    match path {
        Some(path) => {
            ServeError::AttestationPath { path: format!("{:?}", path.display().to_string()), source }
        }
        None => ServeError::Attestation(source),
    }
}

/// Whether the error may be temporary: then the check waits, because an exit means a reboot of the VM.
fn is_transient(error: AttestationError) -> bool {
    matches!(
        error,
        AttestationError::ClockOff
            | AttestationError::Expired
            | AttestationError::Unreachable
            | AttestationError::Timeout
    )
}

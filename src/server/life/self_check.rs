//! Before a port is opened: is this machine what it should be?

use std::time::Duration;

use tokio::time::Instant;

use super::failure::ServeError;
use crate::attestation::{AttestationError, Claims, LauncherSocket, Profile, TokenSource};
use crate::keys::KmsConfig;
use crate::telemetry::{self, Event};

/// How long a token that is on its way is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
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
    // Not verified: it is the launcher's own, and who could forge it could as well patch this line.
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

/// An exit means a reboot of the VM, so what may heal is waited for.
fn is_transient(error: AttestationError) -> bool {
    matches!(
        error,
        AttestationError::ClockOff
            | AttestationError::Expired
            | AttestationError::Unreachable
            | AttestationError::Timeout
    )
}

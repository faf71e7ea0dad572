//! The launcher's default token: from its file, or from its socket when the file has no valid one.
//!
//! The launcher replaces the file by renaming, so it is opened by its path each time and never held open. It may
//! hold an expired token for an hour (the launcher backs off for that long) or never exist (when the launcher
//! does not refresh tokens), and then the socket can still have one.
//! Must not touch: the token's other claims; where it is sent.

use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::AsyncReadExt as _;

use super::claims::{MAX_TOKEN_BYTES, peek_expiry};
use super::error::AttestationError;
use super::socket::LauncherSocket;
use crate::secret::Secret;

/// A token that expires sooner than this is as good as expired: it would not survive the exchange.
const MIN_REMAINING: Duration = Duration::from_secs(5);

/// Where the launcher's default token comes from.
#[derive(Clone, Debug)]
pub struct TokenSource {
    file: PathBuf,
    socket: Option<LauncherSocket>,
}

impl TokenSource {
    /// A token from `file`, or else from the launcher's `socket`. Nothing is opened yet.
    pub fn new(file: impl Into<PathBuf>, socket: Option<LauncherSocket>) -> Self {
        Self { file: file.into(), socket }
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// [`AttestationError`]: what is wrong with the file, if the socket cannot help either.
    pub async fn token(&self) -> Result<Secret<String>, AttestationError> {
        let with_file = match self.read_file().await.and_then(unexpired) {
            Ok(token) => return Ok(token),
            Err(error) => error,
        };
        let Some(socket) = &self.socket else { return Err(with_file) };
        match socket.default_token().await.and_then(unexpired) {
            Ok(token) => Ok(token),
            // Preview launchers serve the bytes of the file, so this says more than the missing file does.
            Err(AttestationError::Expired) => Err(AttestationError::Expired),
            Err(_) => Err(with_file),
        }
    }

    /// For how long the file's token is still valid; nothing is asked of the launcher.
    ///
    /// # Errors
    /// [`AttestationError`] if there is none, or it has expired.
    pub async fn remaining(&self) -> Result<Duration, AttestationError> {
        remaining(self.read_file().await?.expose())
    }

    async fn read_file(&self) -> Result<Secret<String>, AttestationError> {
        let read = async {
            let file = tokio::fs::File::open(&self.file).await?;
            let mut bytes = Secret::new(Vec::new());
            file.take(MAX_TOKEN_BYTES as u64 + 1).read_to_end(bytes.expose_mut()).await?;
            Ok(bytes)
        };
        let mut bytes = read.await.map_err(|error: std::io::Error| match error.kind() {
            ErrorKind::NotFound | ErrorKind::NotADirectory => AttestationError::Missing,
            _ => AttestationError::NotReadable,
        })?;
        let end = bytes.expose().trim_ascii_end().len();
        bytes.expose_mut().truncate(end);
        bytes.into_text().ok_or(AttestationError::Malformed)
    }
}

fn unexpired(token: Secret<String>) -> Result<Secret<String>, AttestationError> {
    match remaining(token.expose())? {
        remaining if remaining < MIN_REMAINING => Err(AttestationError::Expired),
        _ => Ok(token),
    }
}

fn remaining(token: &str) -> Result<Duration, AttestationError> {
    let expiry = peek_expiry(token).map_err(|_| AttestationError::Malformed)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_secs(expiry).checked_sub(now).ok_or(AttestationError::Expired)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;

    fn token(lifetime: i64) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let claims = format!(r#"{{"exp":{}}}"#, now.saturating_add_signed(lifetime));
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims), part("x"))
    }

    async fn launcher(dir: &Path, token: String) -> (LauncherSocket, tokio::task::JoinHandle<()>) {
        use tokio::io::AsyncWriteExt as _;
        let path = dir.join("teeserver.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serve = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut call = Vec::new();
                while !call.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut call).await.unwrap(), 0);
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", token.len());
                stream.write_all(format!("{head}{token}").as_bytes()).await.unwrap();
            }
        });
        (LauncherSocket::new(path, Duration::from_secs(5)), serve)
    }

    #[tokio::test]
    async fn the_file_is_opened_anew_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let source = TokenSource::new(&file, None);
        for lifetime in [600, 700] {
            let token = token(lifetime);
            std::fs::write(dir.path().join("tmp"), format!("{token}\n")).unwrap();
            std::fs::rename(dir.path().join("tmp"), &file).unwrap();
            assert_eq!(source.token().await.unwrap().expose(), &token);
        }
        let remaining = source.remaining().await.unwrap();
        assert!((690..=700).contains(&remaining.as_secs()), "{remaining:?}");
    }

    #[tokio::test]
    async fn each_fault_of_the_file_has_its_own_error() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let source = TokenSource::new(&file, None);
        assert_eq!(source.token().await.unwrap_err(), AttestationError::Missing);
        for (content, error) in [
            (token(-1), AttestationError::Expired),
            (token(2), AttestationError::Expired),
            ("junk".into(), AttestationError::Malformed),
            (String::new(), AttestationError::Malformed),
            ("x".repeat(MAX_TOKEN_BYTES + 1), AttestationError::Malformed),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(source.token().await.unwrap_err(), error);
        }
        std::fs::remove_file(&file).unwrap();
        // Neither a directory nor a loop can be read, whoever runs the tests; EACCES is mapped the same way.
        symlink(&file, &file).unwrap();
        let error = source.token().await.unwrap_err();
        assert_eq!(error, AttestationError::NotReadable);
        assert!(!error.to_string().contains('/'), "no path in an error");
    }

    #[tokio::test]
    async fn the_socket_helps_when_the_file_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let fresh = token(600);
        let (socket, serve) = launcher(dir.path(), fresh.clone()).await;
        let source = TokenSource::new(&file, Some(socket));
        assert_eq!(source.token().await.unwrap().expose(), &fresh);
        std::fs::write(&file, token(-1)).unwrap();
        assert_eq!(source.token().await.unwrap().expose(), &fresh);
        serve.abort();
        assert!(serve.await.unwrap_err().is_cancelled());
        assert_eq!(source.token().await.unwrap_err(), AttestationError::Expired);
    }

    #[tokio::test]
    async fn an_expired_token_from_the_socket_is_expired() {
        let dir = tempfile::tempdir().unwrap();
        let (socket, _serve) = launcher(dir.path(), token(-1)).await;
        let source = TokenSource::new(dir.path().join("token"), Some(socket));
        assert_eq!(source.token().await.unwrap_err(), AttestationError::Expired);
    }
}

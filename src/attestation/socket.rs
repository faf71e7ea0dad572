//! The launcher's socket: HTTP/1.1 over a Unix socket, for tokens on demand.
//!
//! The launcher answers with the bare token as `text/html`, often chunked, and with plain text on an error.
//! Each call makes a new attestation, which takes seconds and a lock that its own token refresh needs too: callers
//! must limit how often untrusted requests cause one.

use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::UnixStream;
use tokio_util::task::AbortOnDropHandle;

use super::claims::MAX_TOKEN_BYTES;
use super::error::AttestationError;
use crate::protocol::TokenType;
use crate::secret::Secret;

/// The launcher takes no more nonces than this.
pub const MAX_NONCES: usize = 6;

/// The launcher's API on its Unix socket.
#[derive(Clone, Debug)]
pub struct LauncherSocket {
    path: PathBuf,
    timeout: Duration,
}

/// A token made to order.
#[derive(Clone, Debug, Serialize)]
pub struct TokenRequest {
    audience: String,
    nonces: Vec<String>,
    token_type: TokenType,
}

/// A token request that the launcher would refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRequestError {
    /// The audience is empty or too long.
    #[error("the audience must have 1 to 512 bytes")]
    Audience,
    /// There are too many nonces, or one is too short or too long.
    #[error("there may be up to 6 nonces of 10 to 74 bytes each")]
    Nonces,
}

impl TokenRequest {
    /// A token for `audience` that repeats `nonces`.
    ///
    /// # Errors
    /// [`TokenRequestError`] if the launcher would not take it.
    pub fn new(
        audience: impl Into<String>,
        nonces: Vec<String>,
        token_type: TokenType,
    ) -> Result<Self, TokenRequestError> {
        let audience = audience.into();
        if !(1..=512).contains(&audience.len()) {
            return Err(TokenRequestError::Audience);
        }
        if nonces.len() > MAX_NONCES || !nonces.iter().all(|nonce| (10..=74).contains(&nonce.len())) {
            return Err(TokenRequestError::Nonces);
        }
        Ok(Self { audience, nonces, token_type })
    }
}

impl LauncherSocket {
    /// The API behind the socket at `path`; nothing is opened yet. `timeout` is for one whole call.
    pub fn new(path: impl AsRef<Path>, timeout: Duration) -> Self {
        Self { path: path.as_ref().to_owned(), timeout }
    }

    /// The default token: for Google's STS, without nonces. It must not leave the VM.
    ///
    /// # Errors
    /// [`AttestationError`] if the launcher cannot be reached, is too slow or has no token.
    pub async fn default_token(&self) -> Result<Secret<String>, AttestationError> {
        self.call(Method::GET, Bytes::new()).await
    }

    /// A token made to order.
    ///
    /// # Errors
    /// As [`LauncherSocket::default_token`]; [`AttestationError::Refused`] if the launcher does not take it.
    pub async fn token(&self, request: &TokenRequest) -> Result<Secret<String>, AttestationError> {
        let body = serde_json::to_vec(request).map_err(|_| AttestationError::Refused)?;
        self.call(Method::POST, body.into()).await
    }

    fn is_no_socket(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|metadata| !metadata.file_type().is_socket())
    }

    async fn call(&self, method: Method, body: Bytes) -> Result<Secret<String>, AttestationError> {
        tokio::time::timeout(self.timeout, self.exchange(method, body))
            .await
            .unwrap_or(Err(AttestationError::Timeout))
    }

    async fn exchange(&self, method: Method, body: Bytes) -> Result<Secret<String>, AttestationError> {
        let unreachable = |_| AttestationError::Unreachable;
        let stream = UnixStream::connect(&self.path).await.map_err(|error| match error.kind() {
            std::io::ErrorKind::PermissionDenied => AttestationError::NotReadable,
            // What is there takes no connections, because nothing listens or because it is no socket.
            _ if self.is_no_socket() => AttestationError::NotASocket,
            _ => AttestationError::Unreachable,
        })?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(unreachable)?;
        let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri("/v1/token")
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .map_err(|_| AttestationError::Refused)?;
        let response = sender.send_request(request).await.map_err(unreachable)?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::BAD_REQUEST => return Err(AttestationError::Refused),
            StatusCode::NOT_FOUND => return Err(AttestationError::Missing),
            _ => return Err(AttestationError::Unreachable),
        }
        let body = Limited::new(response.into_body(), MAX_TOKEN_BYTES).collect().await;
        let body = body.map_err(|_| AttestationError::Malformed)?.to_bytes();
        let token = std::str::from_utf8(body.trim_ascii()).map_err(|_| AttestationError::Malformed)?;
        Ok(Secret::new(token.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::UnixListener;

    use super::*;

    /// A launcher that answers one call with `answer`; the call as it came is returned.
    async fn call(
        answer: &'static [u8],
        request: Option<TokenRequest>,
    ) -> (Result<Secret<String>, AttestationError>, String) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("teeserver.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let launcher = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut call = Vec::new();
            while !call.ends_with(b"\r\n\r\n") && !call.ends_with(b"}") {
                assert_ne!(stream.read_buf(&mut call).await.unwrap(), 0);
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(call).unwrap()
        };
        let socket = LauncherSocket::new(&path, Duration::from_secs(5));
        let client = async {
            match &request {
                Some(request) => socket.token(request).await,
                None => socket.default_token().await,
            }
        };
        tokio::join!(client, launcher)
    }

    #[tokio::test]
    async fn a_chunked_html_answer_is_a_token() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n\
            3\r\nabc\r\n4\r\n.def\r\n0\r\n\r\n";
        let (token, call) = self::call(answer, None).await;
        assert_eq!(token.unwrap().expose(), "abc.def");
        assert!(call.starts_with("GET /v1/token HTTP/1.1\r\nhost: localhost\r\n"), "{call}");
    }

    #[tokio::test]
    async fn a_token_to_order_is_asked_for_with_the_launchers_names() {
        let request = TokenRequest::new("https://us.example", vec!["n".repeat(43)], TokenType::Oidc).unwrap();
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\na.b.c";
        let (token, call) = self::call(answer, Some(request)).await;
        assert_eq!(token.unwrap().expose(), "a.b.c");
        let body = format!(
            r#"{{"audience":"https://us.example","nonces":["{}"],"token_type":"OIDC"}}"#,
            "n".repeat(43)
        );
        assert!(call.starts_with("POST /v1/token ") && call.ends_with(&body), "{call}");
    }

    #[tokio::test]
    async fn plain_text_errors_are_told_apart_by_their_status() {
        for (answer, error) in [
            (&b"HTTP/1.1 400 Bad Request\r\nContent-Length: 2\r\n\r\nno"[..], AttestationError::Refused),
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno", AttestationError::Missing),
            (b"HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\nno", AttestationError::Unreachable),
            (b"not http at all, just some text\r\n\r\n", AttestationError::Unreachable),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe", AttestationError::Malformed),
            (b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\na", AttestationError::Malformed),
        ] {
            assert_eq!(call(answer, None).await.0.unwrap_err(), error);
        }
    }

    #[tokio::test]
    async fn a_launcher_that_does_not_answer_is_given_up() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("teeserver.sock");
        let _listener = UnixListener::bind(&path).unwrap();
        let socket = LauncherSocket::new(&path, Duration::from_millis(20));
        assert_eq!(socket.default_token().await.unwrap_err(), AttestationError::Timeout);
        let absent = LauncherSocket::new(dir.path().join("absent"), Duration::from_secs(5));
        assert_eq!(absent.default_token().await.unwrap_err(), AttestationError::Unreachable);
    }

    #[test]
    fn a_request_that_the_launcher_would_refuse_is_not_made() {
        let request =
            |audience: &str, nonces| TokenRequest::new(audience, nonces, TokenType::Pki).map(|_| ());
        assert_eq!(request("a", vec!["n".repeat(10), "n".repeat(74)]), Ok(()));
        assert_eq!(request("", vec![]), Err(TokenRequestError::Audience));
        assert_eq!(request(&"a".repeat(513), vec![]), Err(TokenRequestError::Audience));
        assert_eq!(request("a", vec!["short".into()]), Err(TokenRequestError::Nonces));
        assert_eq!(request("a", vec!["n".repeat(43); 7]), Err(TokenRequestError::Nonces));
    }
}

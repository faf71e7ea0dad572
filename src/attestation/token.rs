//! The launcher's default token: from its file, or from its socket when the file has no valid one.
//!
//! The launcher replaces the file by renaming, so it is opened by its path each time and never held open. It may
//! hold an expired token for an hour (the launcher backs off for that long) or never exist (when the launcher
//! does not refresh tokens), and then the socket can still have one. That one is kept: each call of the socket
//! makes a new attestation.

use std::fmt;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Semaphore};

use super::claims::{MAX_TOKEN_BYTES, peek_life};
use super::clock::Clock;
use super::error::AttestationError;
use super::socket::LauncherSocket;
use crate::files::{self, ReadError};
use crate::secret::Secret;

/// A token that expires sooner than this is as good as expired: it would not survive the exchange.
const MIN_REMAINING: Duration = Duration::from_secs(5);

/// A kept token that expires sooner than this is replaced if the launcher has another.
const RENEW_AHEAD: Duration = Duration::from_secs(600);

/// How far this machine's clock and the issuer's may lie apart.
const LEEWAY: Duration = Duration::from_secs(60);

/// How long reading the file may take. It is small; only a file system that does not answer takes longer.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Where the launcher's default token comes from: its file and its socket. Clones share one state.
#[derive(Clone)]
pub struct TokenSource(Arc<Inner>);

struct Inner {
    file: PathBuf,
    socket: Option<LauncherSocket>,
    clock: Clock,
    /// The last token of the socket. Locked during a call, which all waiting callers share (single-flight).
    kept: Mutex<Option<Secret<String>>>,
    /// Held by the thread that reads the file: a file system that hangs must not take one thread after the other.
    reading: Arc<Semaphore>,
}

impl TokenSource {
    /// A token from `file`, or else from the launcher's `socket`. Nothing is opened yet.
    pub fn new(file: impl Into<PathBuf>, socket: Option<LauncherSocket>) -> Self {
        Self::with_clock(file, socket, Clock::System)
    }

    /// The same by another clock.
    pub fn with_clock(file: impl Into<PathBuf>, socket: Option<LauncherSocket>, clock: Clock) -> Self {
        let reading = Arc::new(Semaphore::new(1));
        Self(Arc::new(Inner { file: file.into(), socket, clock, kept: Mutex::default(), reading }))
    }

    /// A token that is valid now.
    ///
    /// # Errors
    /// [`AttestationError`]: what is wrong with the file, if the socket cannot help either.
    pub async fn token(&self) -> Result<Secret<String>, AttestationError> {
        Ok(self.token_and_life().await?.0)
    }

    /// A token that is valid now, and for how long it will be.
    ///
    /// # Errors
    /// As [`TokenSource::token`].
    pub async fn token_and_life(&self) -> Result<(Secret<String>, Duration), AttestationError> {
        let place = &*self.0;
        let in_file = place.read_file().await;
        let with_file = match &in_file {
            Ok(token) => match place.remaining(token) {
                Ok(remaining) => return in_file.map(|token| (token, remaining)),
                Err(error) => error,
            },
            Err(error) => *error,
        };
        let Some(socket) = &place.socket else { return Err(with_file) };
        match place.read_socket(socket, in_file.as_ref().ok()).await {
            Ok(answer) => Ok(answer),
            // These say more than a missing or an expired file does.
            Err(error @ (AttestationError::Expired | AttestationError::ClockOff)) => Err(error),
            Err(error @ (AttestationError::NotReadable | AttestationError::NotASocket))
                if with_file == AttestationError::Missing =>
            {
                Err(error)
            }
            Err(_) => Err(with_file),
        }
    }
}

impl Inner {
    /// The token that is kept while it has some life left, or else a new one.
    async fn read_socket(
        &self,
        socket: &LauncherSocket,
        in_file: Option<&Secret<String>>,
    ) -> Result<(Secret<String>, Duration), AttestationError> {
        let mut kept = self.kept.lock().await;
        let old = kept.as_ref().and_then(|token| Some((copy(token), self.remaining(token).ok()?)));
        if let Some((_, remaining)) = &old
            && *remaining >= RENEW_AHEAD
        {
            return old.ok_or(AttestationError::Expired);
        }
        match socket.default_token().await.and_then(|token| self.made_now(token, in_file)) {
            Ok((token, remaining)) => {
                *kept = Some(copy(&token));
                Ok((token, remaining))
            }
            Err(error) => old.ok_or(error),
        }
    }

    /// A token of the socket. A current launcher makes it on the call, so if it has expired, the clock is wrong; a
    /// preview's launcher gives the bytes of the file.
    fn made_now(
        &self,
        token: Secret<String>,
        in_file: Option<&Secret<String>>,
    ) -> Result<(Secret<String>, Duration), AttestationError> {
        match self.remaining(&token) {
            Ok(remaining) => Ok((token, remaining)),
            Err(AttestationError::Expired)
                if self.is_long_over(&token) && in_file.is_none_or(|old| old.expose() != token.expose()) =>
            {
                Err(AttestationError::ClockOff)
            }
            Err(error) => Err(error),
        }
    }

    /// For how long `token` is still good.
    fn remaining(&self, token: &Secret<String>) -> Result<Duration, AttestationError> {
        let life = peek_life(token.expose()).map_err(|_| AttestationError::Malformed)?;
        let now = self.clock.since_1970();
        if Duration::from_secs(life.from) > now + LEEWAY {
            return Err(AttestationError::ClockOff);
        }
        let remaining = Duration::from_secs(life.until).checked_sub(now);
        remaining.filter(|remaining| *remaining >= MIN_REMAINING).ok_or(AttestationError::Expired)
    }

    fn is_long_over(&self, token: &Secret<String>) -> bool {
        let now = self.clock.since_1970();
        peek_life(token.expose()).is_ok_and(|life| Duration::from_secs(life.until) + LEEWAY < now)
    }

    async fn read_file(&self) -> Result<Secret<String>, AttestationError> {
        let reading = async {
            // The semaphore is never closed.
            let turn = Arc::clone(&self.reading).acquire_owned().await.ok()?;
            let path = self.file.clone();
            let read = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                files::read_secret(&path, MAX_TOKEN_BYTES as u64)
            });
            read.await.ok()
        };
        let read = tokio::time::timeout(READ_TIMEOUT, reading).await.ok().flatten();
        let mut bytes = read.ok_or(AttestationError::NotReadable)?.map_err(|error| match error {
            ReadError::NotAFile(_) => AttestationError::NotAFile,
            ReadError::TooLong { .. } => AttestationError::TooLong,
            error => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory => AttestationError::Missing,
                _ => AttestationError::NotReadable,
            },
        })?;
        let end = bytes.expose().trim_ascii_end().len();
        bytes.expose_mut().truncate(end);
        bytes.into_text().ok_or(AttestationError::Malformed)
    }
}

fn copy(token: &Secret<String>) -> Secret<String> {
    Secret::new(token.expose().clone())
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSource")
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use base64::Engine as _;
    use base64::prelude::BASE64_URL_SAFE_NO_PAD;

    use super::*;

    /// A token that was made `age` seconds ago and expires `lifetime` seconds from now.
    fn aged(age: i64, lifetime: i64) -> String {
        let now = Clock::System.since_1970().as_secs();
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let (from, until) = (now.saturating_add_signed(-age), now.saturating_add_signed(lifetime));
        let claims = format!(r#"{{"iat":{from},"nbf":{from},"exp":{until}}}"#);
        format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(&claims), part("x"))
    }

    fn token(lifetime: i64) -> String {
        aged(3600 - lifetime, lifetime)
    }

    struct Launcher {
        socket: LauncherSocket,
        calls: Arc<AtomicUsize>,
        serve: tokio::task::JoinHandle<()>,
    }

    impl Launcher {
        async fn end(self) {
            self.serve.abort();
            assert!(self.serve.await.unwrap_err().is_cancelled());
        }
    }

    async fn launcher(dir: &Path, token: String) -> Launcher {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let path = dir.join("teeserver.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let serve = tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let mut call = Vec::new();
                while !call.ends_with(b"\r\n\r\n") {
                    assert_ne!(stream.read_buf(&mut call).await.unwrap(), 0);
                }
                let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", token.len());
                stream.write_all(format!("{head}{token}").as_bytes()).await.unwrap();
            }
        });
        Launcher { socket: LauncherSocket::new(path, Duration::from_secs(5)), calls, serve }
    }

    #[tokio::test]
    async fn the_file_is_opened_each_time() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let source = TokenSource::new(&file, None);
        for lifetime in [600, 700] {
            let token = token(lifetime);
            std::fs::write(dir.path().join("tmp"), format!("{token}\n")).unwrap();
            std::fs::rename(dir.path().join("tmp"), &file).unwrap();
            assert_eq!(source.token().await.unwrap().expose(), &token);
        }
        let (_, remaining) = source.token_and_life().await.unwrap();
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
            (aged(-600, 4200), AttestationError::ClockOff),
            ("junk".into(), AttestationError::Malformed),
            (String::new(), AttestationError::Malformed),
            ("x".repeat(MAX_TOKEN_BYTES), AttestationError::Malformed),
            ("x".repeat(MAX_TOKEN_BYTES + 1), AttestationError::TooLong),
        ] {
            std::fs::write(&file, content).unwrap();
            assert_eq!(source.token().await.unwrap_err(), error);
        }
        std::fs::remove_file(&file).unwrap();
        std::fs::create_dir(&file).unwrap();
        assert_eq!(source.token().await.unwrap_err(), AttestationError::NotAFile);
        std::fs::remove_dir(&file).unwrap();
        // A loop cannot be read by any user; EACCES is mapped the same way.
        symlink(&file, &file).unwrap();
        let error = source.token().await.unwrap_err();
        assert_eq!(error, AttestationError::NotReadable);
        assert!(!error.to_string().contains('/'), "no path in an error");
    }

    #[tokio::test]
    async fn what_is_no_regular_file_is_told_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("pipe");
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        let link = dir.path().join("link");
        symlink(&pipe, &link).unwrap();
        for path in [&pipe, &link, Path::new("/dev/zero"), Path::new("/dev/null"), dir.path()] {
            let source = TokenSource::new(path, None);
            assert_eq!(source.token().await.unwrap_err(), AttestationError::NotAFile, "{}", path.display());
        }
    }

    #[tokio::test]
    async fn a_socket_path_without_a_socket_is_told_apart_from_no_launcher() {
        let dir = tempfile::tempdir().unwrap();
        let (file, socket) = (dir.path().join("token"), dir.path().join("socket"));
        let source = TokenSource::new(&file, Some(LauncherSocket::new(&socket, Duration::from_secs(5))));
        assert_eq!(source.token().await.unwrap_err(), AttestationError::Missing);
        std::fs::write(&socket, "").unwrap();
        assert_eq!(source.token().await.unwrap_err(), AttestationError::NotASocket);
        std::fs::write(&file, token(-1)).unwrap();
        assert_eq!(source.token().await.unwrap_err(), AttestationError::Expired);
    }

    #[tokio::test]
    async fn the_socket_helps_when_the_file_cannot() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let fresh = token(3600);
        let launcher = launcher(dir.path(), fresh.clone()).await;
        let source = TokenSource::new(&file, Some(launcher.socket.clone()));
        assert_eq!(source.token().await.unwrap().expose(), &fresh);
        std::fs::write(&file, token(-1)).unwrap();
        assert_eq!(source.token().await.unwrap().expose(), &fresh);
        let other = TokenSource::new(&file, Some(launcher.socket.clone()));
        launcher.end().await;
        assert_eq!(source.token().await.unwrap().expose(), &fresh, "what the socket gave is kept");
        assert_eq!(other.token().await.unwrap_err(), AttestationError::Expired);
    }

    #[tokio::test]
    async fn the_socket_attests_once_for_all_and_again_when_its_token_ages() {
        let dir = tempfile::tempdir().unwrap();
        let launcher = launcher(dir.path(), token(3600)).await;
        let source = TokenSource::new(dir.path().join("token"), Some(launcher.socket.clone()));
        for token in futures_util::future::join_all((0..20).map(|_| source.token())).await {
            token.unwrap();
        }
        assert_eq!(launcher.calls.load(Ordering::SeqCst), 1);
        *source.0.kept.lock().await = Some(Secret::new(token(599)));
        source.token().await.unwrap();
        assert_eq!(launcher.calls.load(Ordering::SeqCst), 2);
        *source.0.kept.lock().await = Some(Secret::new(token(599)));
        launcher.end().await;
        let (_, remaining) = source.token_and_life().await.unwrap();
        assert!(remaining <= Duration::from_secs(599), "an aging one is better than none");
    }

    #[tokio::test]
    async fn an_expired_token_from_the_socket_is_the_files_or_the_clock_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        let stale = token(-600);
        let launcher = launcher(dir.path(), stale.clone()).await;
        let source = TokenSource::new(&file, Some(launcher.socket));
        assert_eq!(source.token().await.unwrap_err(), AttestationError::ClockOff);
        std::fs::write(&file, &stale).unwrap();
        assert_eq!(source.token().await.unwrap_err(), AttestationError::Expired);
    }

    #[test]
    fn debug_shows_no_token() {
        let source = TokenSource::new("token", None);
        *source.0.kept.try_lock().unwrap() = Some(Secret::new(token(1)));
        assert_eq!(format!("{source:?}"), "TokenSource");
    }
}

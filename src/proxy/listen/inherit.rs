//! Sockets that the service manager has bound: systemd's socket activation.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use listenfd::ListenFd;

use super::socket::{Bound, ListenError, UnixSocket};

/// The sockets that were passed to this process, none if it was started in another way.
#[derive(Debug, Default)]
pub struct Inherited {
    tcp: Vec<TcpListener>,
    unix: Option<UnixListener>,
    /// Whether something else is among them.
    unusable: bool,
}

impl Inherited {
    /// Takes the sockets that `LISTEN_FDS` and `LISTEN_PID` announce. They are there once.
    pub fn take() -> Self {
        let mut passed = ListenFd::from_env();
        let mut inherited = Self::default();
        for index in 0..passed.len() {
            if let Ok(Some(listener)) = passed.take_tcp_listener(index) {
                inherited.tcp.push(listener);
            } else if let (Ok(Some(listener)), None) = (passed.take_unix_listener(index), &inherited.unix) {
                inherited.unix = Some(listener);
            } else {
                inherited.unusable = true;
            }
        }
        inherited
    }

    /// Whether there are any.
    pub(super) fn is_some(&self) -> bool {
        self.unusable || self.unix.is_some() || !self.tcp.is_empty()
    }

    /// All of them, if they listen on loopback only.
    pub(super) fn into_bound(self) -> Result<Bound, ListenError> {
        let unusable = |_: std::io::Error| ListenError::Inherited;
        let mut bound = Bound { tcp: Vec::new(), unix: None };
        if self.unusable {
            return Err(ListenError::Inherited);
        }
        for listener in self.tcp {
            if !listener.local_addr().map_err(unusable)?.ip().is_loopback() {
                return Err(ListenError::Inherited);
            }
            listener.set_nonblocking(true).map_err(unusable)?;
            bound.tcp.push(tokio::net::TcpListener::from_std(listener).map_err(unusable)?);
        }
        if let Some(listener) = self.unix {
            listener.set_nonblocking(true).map_err(unusable)?;
            let address = listener.local_addr().map_err(unusable)?;
            let path = address.as_pathname().map_or_else(PathBuf::new, PathBuf::from);
            let listener = tokio::net::UnixListener::from_std(listener).map_err(unusable)?;
            bound.unix = Some(UnixSocket::inherited(listener, path));
        }
        Ok(bound)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_sockets_of_loopback_are_used() {
        let inherited = |address: &str| Inherited {
            tcp: vec![TcpListener::bind(address).unwrap()],
            ..Inherited::default()
        };
        assert_eq!(inherited("127.0.0.1:0").into_bound().unwrap().tcp.len(), 1);
        assert!(matches!(inherited("0.0.0.0:0").into_bound(), Err(ListenError::Inherited)));
        assert!(!Inherited::default().is_some());
    }

    #[tokio::test]
    async fn the_file_of_an_inherited_unix_socket_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.sock");
        let unix = Some(UnixListener::bind(&path).unwrap());
        let bound = Inherited { unix, ..Inherited::default() }.into_bound().unwrap();
        assert_eq!(bound.unix.as_ref().unwrap().path(), path);
        drop(bound);
        assert!(path.exists());
    }
}

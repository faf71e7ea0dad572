//! Sockets that listen, and why one cannot.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, UnixListener};

/// Sockets that listen.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) tcp: Vec<TcpListener>,
    pub(crate) unix: Option<UnixSocket>,
}

/// A Unix socket; its file is removed when this is dropped, unless it is the service manager's.
#[derive(Debug)]
pub(crate) struct UnixSocket {
    pub(crate) listener: UnixListener,
    path: PathBuf,
    inherited: bool,
}

/// Why the proxy cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Another process has the port.
    #[error("{address} is taken{by}: stop that process, or give another address with --listen")]
    Taken {
        /// The address.
        address: SocketAddr,
        /// ` by NAME (process N)`, if that can be found out.
        by: String,
    },
    /// Something else is wrong with an address.
    #[error("cannot listen on {address}: {kind}")]
    Address {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        kind: ErrorKind,
    },
    /// The Unix socket cannot be made.
    #[error("cannot listen on the Unix socket: {0}")]
    Socket(ErrorKind),
    /// A socket of the service manager cannot be used.
    #[error("a socket of the service manager is not one of loopback TCP or Unix: correct the .socket unit")]
    Inherited,
    /// A process listens on the Unix socket already.
    #[error("the Unix socket is in use by another process: give another path with --socket")]
    SocketTaken,
}

impl UnixSocket {
    /// Makes the socket, for this account alone.
    pub(super) fn bind(path: &Path) -> Result<Self, ListenError> {
        let failed = |error: std::io::Error| ListenError::Socket(error.kind());
        if let Ok(metadata) = std::fs::symlink_metadata(path) {
            if !metadata.file_type().is_socket() {
                return Err(ListenError::Socket(ErrorKind::AlreadyExists));
            }
            // Left behind by a process that was killed, unless something answers there.
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(ListenError::SocketTaken);
            }
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        // The peer's account is looked at as well: between bind and this others could have connected.
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned(), inherited: false })
    }

    /// A socket that the service manager made, and removes.
    pub(super) fn inherited(listener: UnixListener, path: PathBuf) -> Self {
        Self { listener, path, inherited: true }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if !self.inherited {
            // Best effort: the next start removes it.
            std::fs::remove_file(&self.path).ok();
        }
    }
}

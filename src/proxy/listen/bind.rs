//! Binds the sockets, on loopback of both families and a Unix socket, and finds the process that has a port already.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::Path;

use tokio::net::TcpListener;

use super::inherit::Inherited;
use super::socket::{Bound, ListenError, UnixSocket};

/// Where to listen.
#[derive(Debug, Default)]
pub(crate) struct Unbound<'a> {
    /// Each of these must be free.
    pub(crate) addresses: &'a [SocketAddr],
    /// A machine without IPv6 may lack these.
    pub(crate) optional: &'a [SocketAddr],
    pub(crate) socket: Option<&'a Path>,
    /// Sockets of the service manager; with any of them nothing else is bound.
    pub(crate) inherited: Inherited,
}

/// Binds all of them.
///
/// # Errors
/// [`ListenError`] with the address.
pub(crate) async fn bind(unbound: Unbound<'_>) -> Result<Bound, ListenError> {
    if unbound.inherited.is_some() {
        return unbound.inherited.into_bound();
    }
    let mut tcp = Vec::new();
    for &address in unbound.addresses {
        tcp.push(listen(address).await?);
    }
    for &address in unbound.optional {
        // Port 0 is free in each family by itself; both should be the same one.
        let port = tcp.first().and_then(|first| first.local_addr().ok()).map_or(0, |first| first.port());
        let address = if address.port() == 0 { SocketAddr::new(address.ip(), port) } else { address };
        match listen(address).await {
            Ok(listener) => tcp.push(listener),
            Err(taken @ ListenError::Taken { .. }) => return Err(taken),
            Err(_) => {}
        }
    }
    let unix = unbound.socket.map(UnixSocket::bind).transpose()?;
    Ok(Bound { tcp, unix })
}

async fn listen(address: SocketAddr) -> Result<TcpListener, ListenError> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => ListenError::Taken { address, by: holder(address) },
        kind => ListenError::Address { address, kind },
    })
}

/// ` by NAME (process N)` for the process that listens on `address`, if this account may see it.
fn holder(address: SocketAddr) -> String {
    let unknown = String::from(" by another process");
    let Some(inode) = listening_inode(address) else { return unknown };
    let wanted = format!("socket:[{inode}]");
    let Ok(processes) = std::fs::read_dir("/proc") else { return unknown };
    for process in processes.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else { continue };
        let holds = |file: std::fs::DirEntry| {
            std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str())
        };
        if files.flatten().any(holds) {
            let name = std::fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            let name: String = name.trim().chars().filter(|character| !character.is_control()).collect();
            return format!(" by {name} (process {pid})");
        }
    }
    unknown
}

fn listening_inode(address: SocketAddr) -> Option<String> {
    const LISTEN: &str = "0A";
    let port = format!(":{:04X}", address.port());
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = std::fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_ascii_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&port) && *fields.get(3)? == LISTEN;
            listens.then(|| fields.get(9).map(|inode| (*inode).to_owned())).flatten()
        })
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[tokio::test]
    async fn a_taken_port_is_named_with_the_process_that_has_it() {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = first.local_addr().unwrap();
        let unbound = Unbound { addresses: &[address], ..Unbound::default() };
        let error = bind(unbound).await.unwrap_err().to_string();
        assert!(error.contains(&address.to_string()), "{error}");
        assert!(error.contains(&format!("(process {})", std::process::id())), "{error}");
    }

    #[tokio::test]
    async fn a_socket_file_that_was_left_behind_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.sock");
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        let unbound = || Unbound { socket: Some(&path), ..Unbound::default() };
        let bound = bind(unbound()).await.unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(bind(unbound()).await, Err(ListenError::SocketTaken)));
        drop(bound);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(matches!(bind(unbound()).await, Err(ListenError::Socket(ErrorKind::AlreadyExists))));
    }
}

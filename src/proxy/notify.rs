//! Tells the service manager that the proxy listens: the datagram that `sd_notify(3)` describes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Sends `state`, such as `READY=1`, to the socket called `name`. A name that begins with `@` is an abstract one.
///
/// That no one listens there is no reason to fail.
pub(super) fn notify(name: &OsStr, state: &str) {
    let address = match name.as_bytes().strip_prefix(b"@") {
        Some(rest) => abstract_address(rest),
        None => SocketAddr::from_pathname(name).ok(),
    };
    if let (Some(address), Ok(socket)) = (address, UnixDatagram::unbound()) {
        socket.send_to_addr(state.as_bytes(), &address).ok();
    }
}

#[cfg(target_os = "linux")]
fn abstract_address(name: &[u8]) -> Option<SocketAddr> {
    use std::os::linux::net::SocketAddrExt as _;

    SocketAddr::from_abstract_name(name).ok()
}

#[cfg(not(target_os = "linux"))]
fn abstract_address(_: &[u8]) -> Option<SocketAddr> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("notify");
        let manager = UnixDatagram::bind(&path).unwrap();
        notify(path.as_os_str(), "READY=1");
        let mut state = [0; 16];
        let length = manager.recv(&mut state).unwrap();
        assert_eq!(&state[..length], b"READY=1");
        notify(OsStr::new("/nonexistent/notify"), "READY=1");
    }
}

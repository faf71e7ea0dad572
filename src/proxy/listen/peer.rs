//! Whose connection it is: the account that owns the other end.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};

use tokio::net::{TcpStream, UnixStream};

/// The other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer {
    /// The address that it connected to; none on a Unix socket.
    pub(crate) local: Option<SocketAddr>,
    /// Whether its account may use the proxy.
    pub(crate) allowed: bool,
}

impl Peer {
    /// Of a TCP connection of this machine. An account that cannot be found is not allowed.
    pub(super) fn of_tcp(stream: &TcpStream, any_user: bool) -> Self {
        let local = stream.local_addr().ok();
        let allowed = any_user
            || match (local, stream.peer_addr()) {
                (Some(local), Ok(peer)) => owner(peer, local) == Some(own_uid()),
                _ => false,
            };
        Self { local, allowed }
    }

    /// Of a Unix socket.
    pub(super) fn of_unix(stream: &UnixStream, any_user: bool) -> Self {
        let is_own = || stream.peer_cred().is_ok_and(|peer| peer.uid() == own_uid());
        Self { local: None, allowed: any_user || is_own() }
    }
}

fn own_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// The account of the socket that is bound to `socket` and connected to `to`, from the kernel's table.
fn owner(socket: SocketAddr, to: SocketAddr) -> Option<u32> {
    let table = if socket.is_ipv4() { "/proc/net/tcp" } else { "/proc/net/tcp6" };
    let (local, remote) = (hex(socket), hex(to));
    let table = BufReader::new(std::fs::File::open(table).ok()?);
    table.lines().skip(1).map_while(Result::ok).find_map(|line| row(&line, &local, &remote))
}

/// `sl local remote state tx:rx tr:when retransmits uid …`; an orphaned socket has no owner.
fn row(line: &str, local: &str, remote: &str) -> Option<u32> {
    const TIME_WAIT: &str = "06";
    let mut fields = line.split_ascii_whitespace().skip(1);
    if fields.next()? != local || fields.next()? != remote || fields.next()? == TIME_WAIT {
        return None;
    }
    fields.nth(3)?.parse().ok()
}

/// An address as the table has it: words of four bytes in the machine's order, then the port.
fn hex(address: SocketAddr) -> String {
    let words = |bytes: &[u8]| -> String {
        let words = bytes.chunks_exact(4).map(|word| <[u8; 4]>::try_from(word).unwrap_or_default());
        words.map(|word| format!("{:08X}", u32::from_ne_bytes(word))).collect()
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    format!("{ip}:{:04X}", address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_written_as_the_kernel_does() {
        let little = cfg!(target_endian = "little");
        assert_eq!(
            hex("127.0.0.1:8012".parse().unwrap()),
            if little { "0100007F:1F4C" } else { "7F000001:1F4C" }
        );
        let six = "00000000000000000000000001000000:0050";
        assert!(!little || hex("[::1]:80".parse().unwrap()) == six);
    }

    #[test]
    fn a_row_of_the_table_names_the_account() {
        let row_of = |state: &str| {
            format!(
                "   3: 0100007F:D2F0 0100007F:1F4C {state} 00000000:00000000 00:00000000 00000000  1000        0 \
                 123456 1 0000000000000000 20 4 30 10 -1"
            )
        };
        assert_eq!(row(&row_of("01"), "0100007F:D2F0", "0100007F:1F4C"), Some(1000));
        assert_eq!(row(&row_of("01"), "0100007F:1F4C", "0100007F:D2F0"), None);
        assert_eq!(row(&row_of("06"), "0100007F:D2F0", "0100007F:1F4C"), None);
        assert_eq!(row("", "", ""), None);
    }

    #[tokio::test]
    async fn a_connection_of_this_process_is_its_own() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = tokio::net::TcpListener::bind(address).await else { continue };
            let _client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (stream, _) = listener.accept().await.unwrap();
            assert!(Peer::of_tcp(&stream, false).allowed, "{address}");
            let (local, peer) = (stream.local_addr().unwrap(), stream.peer_addr().unwrap());
            let other = SocketAddr::new(peer.ip(), peer.port() ^ 1);
            assert_eq!(owner(other, local), None);
        }
    }
}

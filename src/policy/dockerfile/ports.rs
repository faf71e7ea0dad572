//! What builders make of the words of EXPOSE.
//!
//! A port of BuildKit's `dockerfile2llb/convert_expose.go` (v0.32.2) and of `docker.Port` in buildah 1.28.

use core::net::IpAddr;

use super::{Problem, problem};

/// What buildah takes for the number, whatever it is.
pub(super) fn number(port: &str) -> &str {
    port.split('/').next().unwrap_or(port)
}

/// buildah checks nothing: ranges, names and other protocols go into the image as they are.
pub(super) fn of_buildah(port: &str) -> String {
    format!("{}/{}", number(port), port.split('/').nth(1).unwrap_or("tcp"))
}

/// `[ADDRESS:][PORT:]PORT[-PORT][/PROTOCOL]` as `PORT/PROTOCOL`.
pub(super) fn of_buildkit(port: &str) -> Result<Vec<String>, Problem> {
    let parts: Vec<&str> = port.split(':').collect();
    let (address, host, container) = match parts.as_slice() {
        [container] => (String::new(), "", *container),
        [host, container] => (String::new(), *host, *container),
        [address @ .., host, container] => (address.join(":"), *host, *container),
        [] => (String::new(), "", ""),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    let protocol = match protocol.to_lowercase().as_str() {
        "" => "tcp".to_owned(),
        known @ ("tcp" | "udp" | "sctp") => known.to_owned(),
        _ => return problem(format!("EXPOSE {port}: the protocol is tcp, udp or sctp")),
    };
    let bare = address.strip_prefix('[').and_then(|bare| bare.strip_suffix(']')).unwrap_or(&address);
    if !address.is_empty() && bare.parse::<IpAddr>().is_err() {
        return problem(format!("EXPOSE {port}: {address} is no address"));
    }
    let Some((first, last)) = range_of(range) else {
        return problem(format!("EXPOSE {port}: not a port from 0 to 65535 or a range of them"));
    };
    if !host.is_empty() {
        match range_of(host) {
            Some((from, to)) if to - from == last - first || first == last => {}
            _ => return problem(format!("EXPOSE {port}: {host} is no port, or a range of another length")),
        }
    }
    Ok((first..=last).map(|number| format!("{number}/{protocol}")).collect())
}

fn range_of(text: &str) -> Option<(u16, u16)> {
    // As Go reads integers: a sign and leading zeros may stand there.
    let port = |text: &str| text.parse::<i64>().ok().and_then(|number| u16::try_from(number).ok());
    let Some((first, last)) = text.split_once('-') else {
        return port(text).map(|port| (port, port));
    };
    let start = port(first)?;
    if first == last {
        return Some((start, start));
    }
    port(last).filter(|&end| end >= start).map(|end| (start, end))
}

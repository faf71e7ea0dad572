//! Which requests are allowed, by their headers alone: Host, Origin and token.
//!
//! A page of another origin can post to loopback, and with a name of its own that leads there it would even be of the
//! same origin.

use std::net::{IpAddr, SocketAddr};

use http::header::{HOST, ORIGIN};
use http::{HeaderMap, HeaderValue, Uri};

use super::peer::Peer;
use super::token::AccessToken;
use crate::proxy::error::Failure;

/// The rules that each request must pass.
#[derive(Debug)]
pub(crate) struct Guard {
    /// Origins of web pages that may use the proxy.
    pub(crate) allowed_origins: Vec<HeaderValue>,
    /// The token that each request must have, if there is one.
    pub(crate) token: Option<AccessToken>,
}

/// A request that may pass.
#[derive(Debug)]
pub(crate) struct Pass {
    /// The page that sent it, if it is one of those that were allowed.
    pub(crate) origin: Option<HeaderValue>,
}

impl Guard {
    /// Looks at a request.
    ///
    /// # Errors
    /// Why it may not pass.
    pub(crate) fn check(
        &self,
        peer: &Peer,
        uri: &Uri,
        headers: &HeaderMap,
        is_preflight: bool,
    ) -> Result<Pass, Failure> {
        if !peer.allowed {
            return Err(Failure::ForbiddenAccount);
        }
        let host = host(uri, headers, peer.local.map(|local| local.port())).ok_or(Failure::ForbiddenHost)?;
        let origin = self.origin(headers, &host)?;
        match &self.token {
            // A browser sends no credentials with a preflight.
            Some(token) if !(token.is_in(headers) || is_preflight && origin.is_some()) => {
                Err(Failure::Unauthorized)
            }
            _ => Ok(Pass { origin }),
        }
    }

    /// The foreign page that sent the request, if it may.
    fn origin(&self, headers: &HeaderMap, host: &str) -> Result<Option<HeaderValue>, Failure> {
        let mut origins = headers.get_all(ORIGIN).iter();
        let origin = origins.next();
        if origins.next().is_some() {
            return Err(Failure::ForbiddenOrigin);
        }
        if let Some(origin) = origin {
            if self.allowed_origins.contains(origin) {
                return Ok(Some(origin.clone()));
            }
            let own = format!("http://{host}");
            if !origin.to_str().is_ok_and(|origin| origin.eq_ignore_ascii_case(&own)) {
                return Err(Failure::ForbiddenOrigin);
            }
        }
        // `sec-fetch-mode` is no sign of a browser: Node's fetch sends it too.
        let mut sites = headers.get_all("sec-fetch-site").iter();
        if sites.all(|site| site == "none" || site == "same-origin") {
            Ok(None)
        } else {
            Err(Failure::ForbiddenOrigin)
        }
    }
}

/// The one name that the request gives the proxy, if it is this machine's and the port is `port`. On a Unix socket
/// there is no port, and any will do.
fn host(uri: &Uri, headers: &HeaderMap, port: Option<u16>) -> Option<String> {
    let mut hosts = headers.get_all(HOST).iter();
    let (host, None) = (hosts.next()?.to_str().ok()?, hosts.next()) else { return None };
    if let Some(authority) = uri.authority()
        && authority.as_str() != host
    {
        return None;
    }
    let (name, given) = split(host)?;
    let is_local = name.eq_ignore_ascii_case("localhost")
        || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
    let is_port = match (given, port) {
        (_, None) => true,
        (Some(given), Some(port)) => given == port,
        // Port 80 is the one that clients leave out.
        (None, Some(port)) => port == 80,
    };
    (is_local && is_port).then(|| host.to_owned())
}

/// Name and port. The brackets of an IPv6 address are no part of it.
fn split(host: &str) -> Option<(&str, Option<u16>)> {
    if let Some(rest) = host.strip_prefix('[') {
        let (name, rest) = rest.split_once(']')?;
        name.parse::<std::net::Ipv6Addr>().ok()?;
        return match rest.strip_prefix(':') {
            Some(port) => Some((name, Some(number(port)?))),
            None if rest.is_empty() => Some((name, None)),
            None => None,
        };
    }
    match host.split_once(':') {
        Some((name, port)) => Some((name, Some(number(port)?))),
        None => Some((host, None)),
    }
}

/// A port as URLs have it: digits only.
fn number(text: &str) -> Option<u16> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// Where the status page of the listener is.
pub(crate) fn page(local: Option<SocketAddr>) -> String {
    local.map_or_else(|| "`codeseal proxy status`".to_owned(), |local| format!("http://{local}/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard(token: Option<&str>) -> Guard {
        Guard {
            allowed_origins: vec![HeaderValue::from_static("https://editor.example")],
            token: token.map(|token| AccessToken::new(token.to_owned()).unwrap()),
        }
    }

    fn peer() -> Peer {
        Peer { local: Some("127.0.0.1:8012".parse().unwrap()), allowed: true }
    }

    fn check(headers: &[(&'static str, &str)]) -> Result<Pass, Failure> {
        checked(&guard(None), headers)
    }

    fn checked(guard: &Guard, headers: &[(&'static str, &str)]) -> Result<Pass, Failure> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        guard.check(&peer(), &Uri::from_static("/v1/models"), &map, false)
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:8012");

    #[test]
    fn the_host_is_this_machine_and_this_port() {
        for good in ["127.0.0.1:8012", "localhost:8012", "LOCALHOST:8012", "[::1]:8012", "127.0.0.9:8012"] {
            assert!(check(&[("host", good)]).is_ok(), "{good}");
        }
        for bad in [
            "",
            ":8012",
            "evil.example",
            "evil.example:8012",
            "127.0.0.1",
            "127.0.0.1:8013",
            "localhost",
            "localhost:+8012",
            "localhost.evil.example:8012",
            "127.0.0.1.evil.example:8012",
            "0.0.0.0:8012",
            "[::]:8012",
            "[::1]",
            "[::1]8012",
            "[127.0.0.1]:8012",
            "::1:8012",
            "127.1:8012",
            "user@127.0.0.1:8012",
        ] {
            assert_eq!(check(&[("host", bad)]).unwrap_err(), Failure::ForbiddenHost, "{bad}");
        }
        assert_eq!(check(&[]).unwrap_err(), Failure::ForbiddenHost);
        assert_eq!(check(&[HERE, HERE]).unwrap_err(), Failure::ForbiddenHost);
    }

    #[test]
    fn a_target_with_another_name_is_refused() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8012"));
        let uri = Uri::from_static("http://evil.example:8012/v1/models");
        let refused = guard(None).check(&peer(), &uri, &headers, false).unwrap_err();
        assert_eq!(refused, Failure::ForbiddenHost);
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        for bad in [
            &[HERE, ("origin", "http://evil.example")][..],
            &[HERE, ("origin", "null")],
            &[HERE, ("origin", "http://127.0.0.1:9999")],
            &[HERE, ("origin", "https://127.0.0.1:8012")],
            &[HERE, ("sec-fetch-site", "cross-site")],
            &[HERE, ("sec-fetch-site", "same-site")],
            &[HERE, ("sec-fetch-site", "anything")],
            &[HERE, ("origin", "http://127.0.0.1:8012"), ("sec-fetch-site", "cross-site")],
            &[HERE, ("origin", "http://127.0.0.1:8012"), ("origin", "https://editor.example")],
        ] {
            assert_eq!(check(bad).unwrap_err(), Failure::ForbiddenOrigin, "{bad:?}");
        }
        for good in [
            &[HERE, ("sec-fetch-mode", "cors")][..],
            &[HERE, ("sec-fetch-site", "none")],
            &[HERE, ("sec-fetch-site", "same-origin"), ("origin", "http://127.0.0.1:8012")],
        ] {
            assert!(check(good).unwrap().origin.is_none(), "{good:?}");
        }
        let allowed = check(&[HERE, ("origin", "https://editor.example"), ("sec-fetch-site", "cross-site")]);
        assert_eq!(allowed.unwrap().origin.unwrap(), "https://editor.example");
    }

    #[test]
    fn the_token_comes_in_any_of_the_headers_that_clients_use() {
        let guard = guard(Some("a-token-of-some-length"));
        for good in [
            ("authorization", "Bearer a-token-of-some-length"),
            ("authorization", "bearer a-token-of-some-length"),
            ("x-api-key", "a-token-of-some-length"),
            ("api-key", "a-token-of-some-length"),
            // user:a-token-of-some-length
            ("authorization", "Basic dXNlcjphLXRva2VuLW9mLXNvbWUtbGVuZ3Ro"),
        ] {
            assert!(checked(&guard, &[HERE, good]).is_ok(), "{good:?}");
        }
        for bad in [
            ("authorization", "Bearer a-token-of-some-lengt"),
            ("authorization", "Bearer a-token-of-some-lengthh"),
            ("authorization", "a-token-of-some-length"),
            ("authorization", "Basic !"),
            ("x-api-key", ""),
            ("cookie", "a-token-of-some-length"),
        ] {
            assert_eq!(checked(&guard, &[HERE, bad]).unwrap_err(), Failure::Unauthorized, "{bad:?}");
        }
        assert_eq!(checked(&guard, &[HERE]).unwrap_err(), Failure::Unauthorized);
    }

    #[test]
    fn another_account_is_refused_whatever_it_sends() {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("127.0.0.1:8012"));
        let peer = Peer { allowed: false, ..peer() };
        let refused = guard(None).check(&peer, &Uri::from_static("/"), &headers, false).unwrap_err();
        assert_eq!(refused, Failure::ForbiddenAccount);
    }
}

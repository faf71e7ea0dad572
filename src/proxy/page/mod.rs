//! The status page: one document, one style sheet, one script, one icon, all from here.

use axum::body::Body;
use axum::response::Response;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY};
use http::{HeaderName, HeaderValue};

/// Nothing from elsewhere, nothing inline, no frames around it.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// The files of the page besides the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Style,
    Script,
    /// Browsers ask for it whatever the document says, at this path.
    Icon,
}

/// The document.
pub(super) fn html() -> Response {
    file("text/html; charset=utf-8", include_str!("page.html"))
}

/// One of the other files.
pub(super) fn answer(page: Page) -> Response {
    match page {
        Page::Style => file("text/css; charset=utf-8", include_str!("page.css")),
        Page::Script => file("text/javascript; charset=utf-8", include_str!("page.js")),
        Page::Icon => file("image/svg+xml", include_str!("icon.svg")),
    }
}

fn file(kind: &'static str, text: &'static str) -> Response {
    let mut response = Response::new(Body::from(text));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(HeaderName::from_static("x-frame-options"), HeaderValue::from_static("DENY"));
    response
}

#[cfg(test)]
mod tests {
    #[test]
    fn nothing_comes_from_elsewhere_and_nothing_is_inline() {
        let (html, script) = (include_str!("page.html"), include_str!("page.js"));
        for reference in
            ["src=\"http", "href=\"http", "//cdn", "<style", "style=\"", "onclick", "javascript:"]
        {
            assert!(!html.contains(reference), "{reference}");
        }
        assert_eq!(
            html.matches("<script").count(),
            html.matches("<script src=\"/page.js\" defer></script>").count()
        );
        // Whatever a server says is shown as text.
        for sink in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"]
        {
            assert!(!script.contains(sink), "{sink}");
        }
    }
}

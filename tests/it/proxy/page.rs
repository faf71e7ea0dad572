//! The status page's files: where they come from, and what a browser may do with them.

use codeseal::proxy::Proxy;
use http::HeaderMap;
use serde_json::{Value, json};

use super::between::{Between, Passes};
use super::{Desk, config, post, url};
use crate::harness::{World, http};

/// Headers and text of what a browser gets at `path`.
async fn browse(desk: &Desk, path: &str) -> (u16, HeaderMap, String) {
    let request = http().get(format!("{}{path}", desk.url)).header("accept", "text/html,*/*");
    let answer = request.header("sec-fetch-site", "none").send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
    (status, headers, answer.text().await.unwrap())
}

#[tokio::test]
async fn each_file_of_the_page_has_a_policy_that_lets_nothing_in_from_elsewhere() {
    let desk = Desk::new().await;
    for (path, kind) in [
        ("/", "text/html; charset=utf-8"),
        ("/page.css", "text/css; charset=utf-8"),
        ("/page.js", "text/javascript; charset=utf-8"),
        ("/favicon.ico", "image/svg+xml"),
    ] {
        let (status, headers, _) = browse(&desk, path).await;
        assert_eq!((status, headers["content-type"].to_str().unwrap()), (200, kind), "{path}");
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'; "), "{path}: {policy}");
        for source in policy.split("; ").flat_map(|directive| directive.split(' ').skip(1)) {
            assert!(matches!(source, "'none'" | "'self'"), "{path}: {policy}");
        }
        assert!(
            policy.contains("frame-ancestors 'none'") && policy.contains("form-action 'none'"),
            "{policy}"
        );
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("cache-control", "no-store"),
            ("referrer-policy", "no-referrer"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(headers[name], value, "{path}");
        }
        assert!(!headers.contains_key("set-cookie"), "{path}");
    }
}

/// Each `src` and `href` of the document.
fn references(html: &str) -> Vec<&str> {
    let values = ["src=\"", "href=\""].into_iter().flat_map(|name| html.split(name).skip(1));
    values.map(|rest| rest.split('"').next().unwrap()).filter(|value| !value.starts_with('#')).collect()
}

/// What a browser asks for by itself is neither an error nor a client on the page.
#[tokio::test]
async fn opening_the_page_leaves_no_error_behind() {
    let desk = Desk::new().await;
    let (_, _, html) = browse(&desk, "/").await;
    let named = references(&html);
    assert!(named.contains(&"/favicon.ico") && named.contains(&"/page.js"), "{named:?}");
    for path in named {
        assert_eq!(browse(&desk, path).await.0, 200, "{path}");
    }
    let automatic =
        ["/.well-known/appspecific/com.chrome.devtools.json", "/apple-touch-icon.png", "/robots.txt"];
    for path in automatic {
        assert_eq!(browse(&desk, path).await.0, 404, "{path}");
    }
    let counts = async || desk.get("/status").await.json()["counts"].clone();
    let opened = counts().await;
    assert_eq!((&opened["last_error"], &opened["clients"]), (&Value::Null, &json!([])), "{opened}");
    // A path that an editor may have been given is.
    assert_eq!(browse(&desk, "/v2/models").await.0, 404);
    assert_eq!(counts().await["last_error"]["endpoint"], "(an unknown path)");
}

/// What the playground shows as sent and received is what a watcher of the line has seen, byte for byte.
#[tokio::test]
async fn the_playground_shows_the_very_bytes_of_the_line() {
    let world = World::start().await;
    let server = world.server().await;
    let between = Between::start(server.url(""), Passes::All).await;
    let proxy = Proxy::start(config(&world, &between.url)).await.unwrap();
    proxy.ready().await;
    let (code, behind) = ("def northwind_price(volume):\n    return ", "\nprint(northwind_price(2))\n");
    let body = json!({ "input_prefix": code, "input_suffix": behind, "n_predict": 8 });
    let shown = post(&url(&proxy), "/playground", &body).await.json();
    assert!(!shown["content"].as_str().unwrap().is_empty(), "{shown}");
    let call = between.calls().pop().unwrap();
    for (name, bytes) in [("sent", call.sent), ("received", call.received)] {
        let text = shown[name].as_str().unwrap();
        assert_eq!(text.as_bytes(), &bytes[..], "{name}");
        assert!(text.contains("\"ciphertext\"") && !text.contains("northwind"), "{name}: {text}");
    }
}

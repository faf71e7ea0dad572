//! Chromium: the status page and its playground for people, and foreign pages that try to use the proxy.

use std::sync::Arc;

use serde_json::{Value, json};

use super::driver::{Driver, file, program};
use super::scenes::{Scene, Scenes};

/// Tokens that the playground asks for.
const PLAYGROUND_TOKENS: u64 = 48;
/// The least contrast of text that WCAG 2 calls readable (success criterion 1.4.3).
const READABLE: f64 = 4.5;

async fn drive(scenes: &Arc<Scenes>, script: &str) -> Vec<Value> {
    let driver = Driver::new("CODESEAL_EDITORS_NODE").arg(file("tests/node").join(script));
    let mut driver = driver.env("CODESEAL_EDITORS_CHROMIUM", program("CODESEAL_EDITORS_CHROMIUM"));
    if let Some(pictures) = std::env::var_os("CODESEAL_PICTURES") {
        driver = driver.env("CODESEAL_PICTURES", pictures);
    }
    driver.run(scenes).await
}

fn parts<'a>(reports: &'a [Value], part: &str) -> Vec<&'a Value> {
    reports.iter().filter(|report| report["part"] == part).collect()
}

fn strings(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
}

#[tokio::test]
#[ignore = "needs Node and Chromium: set CODESEAL_EDITORS_NODE and CODESEAL_EDITORS_CHROMIUM"]
async fn the_status_page_and_its_playground() {
    let scenes = Arc::new(Scenes::new().await);
    let reports = drive(&scenes, "page.mjs").await;
    let [page] = parts(&reports, "page")[..] else { panic!("{reports:#?}") };

    let address = scenes.url(Scene::Good);
    for url in strings(&page["seen"]["requests"]) {
        assert!(url.starts_with(&format!("{address}/")), "{url}");
    }
    assert_eq!(page["seen"]["complaints"], json!([]), "{page}");
    let policy = page["seen"]["policy"].as_str().unwrap();
    assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"), "{policy}");
    assert_eq!(page["cookies"], json!([]));

    let server = scenes.server.url("");
    assert_eq!(page["verdict"], format!("Verified: {server} is what the policy says"), "{page}");
    assert!(strings(&page["proven"]).iter().any(|text| text.starts_with("sha256:")), "{page}");
    assert!(!strings(&page["not_proven"]).is_empty());
    // A client's name has lost its markup, and is shown as text.
    assert_eq!(page["images"], 0);
    assert!(strings(&page["clients"]).iter().any(|name| name.starts_with("img src")), "{page}");

    assert_eq!(page["files"], json!(["prices.py", "33 bytes"]), "the files of the last prompt");

    let stops = strings(&page["stops"]);
    assert_eq!(stops[..2], ["skip", "main"], "{stops:?}");
    assert_eq!(stops.last(), Some(&"code"), "{stops:?}");
    assert_ne!(page["outline"], "none", "the focus is not visible");
    let tree = page["tree"].as_str().unwrap();
    for part in [
        "heading \"codeseal proxy\" [level=1]",
        "heading \"Not proven\" [level=2]",
        "textbox \"Code\"",
        "button \"Complete at the cursor\"",
        "table \"Clients and their last requests, without any text\"",
        "status: \"Verified:",
    ] {
        assert!(tree.contains(part), "{part} is not in what a screen reader is told:\n{tree}");
    }

    let code = "# browser, playground\ndef add(a, b):\n    return";
    let body = json!({ "prompt": code, "suffix": "\n\nprint(add(1, 2))\n", "max_tokens": PLAYGROUND_TOKENS });
    let expected = scenes.expected(body).await;
    assert_eq!(page["completion"], expected, "{page}");
    assert_eq!(page["around"], format!("{code}{expected}\n\nprint(add(1, 2))\n"));
    let wire = page["wire"].as_str().unwrap();
    assert!(wire.contains("\"ciphertext\"") && wire.contains("\"wrapped_dek\""), "{wire}");
    for clear in ["playground", "def add", "print(add"] {
        assert!(!wire.contains(clear), "{clear} went over the wire:\n{wire}");
    }

    let colours = parts(&reports, "colours");
    assert_eq!(colours.len(), 2);
    for scheme in &colours {
        assert!(
            scheme["least"].as_f64().unwrap() >= READABLE && scheme["texts"].as_u64() > Some(20),
            "{scheme}"
        );
    }
    assert_ne!(colours[0]["back"], colours[1]["back"]);
    for narrow in parts(&reports, "narrow") {
        assert_eq!(narrow["wide"], 360, "a telephone has to scroll sideways: {narrow}");
    }
}

#[tokio::test]
#[ignore = "needs Node and Chromium: set CODESEAL_EDITORS_NODE and CODESEAL_EDITORS_CHROMIUM"]
async fn the_status_page_when_there_is_no_answer() {
    let scenes = Arc::new(Scenes::new().await);
    let reports = drive(&scenes, "page.mjs").await;
    let failures = parts(&reports, "failure");
    for (scene, verdict, sentence) in [
        ("down", "Not ready: not connected: ", "codeseal: not connected: "),
        ("not_verified", "Not ready: not verified: ", "codeseal: not verified: "),
        ("busy", "Connected to ", "codeseal: the server is busy: "),
    ] {
        let shown = failures.iter().find(|failure| failure["scene"] == scene).unwrap();
        assert!(shown["verdict"].as_str().unwrap().starts_with(verdict), "{shown}");
        assert!(shown["state"].as_str().unwrap().starts_with(sentence), "{shown}");
        assert_eq!((&shown["class"], &shown["completion"]), (&json!("verdict bad"), &json!("")), "{shown}");
        let is_marked = shown["title"].as_str().unwrap().starts_with('!');
        assert_eq!(is_marked, scene != "busy", "{shown}");
    }
}

#[tokio::test]
#[ignore = "needs Node and Chromium: set CODESEAL_EDITORS_NODE and CODESEAL_EDITORS_CHROMIUM"]
async fn foreign_pages_reach_nothing() {
    let scenes = Arc::new(Scenes::new().await);
    let sealed = async || scenes.status(Scene::Good).await["servers"][0]["sealed_bytes_sent"].clone();
    let before = sealed().await;
    let reports = drive(&scenes, "attacks.mjs").await;
    assert_eq!(sealed().await, before, "a foreign page's request was sealed");
    // Nor is the icon, which a browser asks for by itself, taken for a request of an editor.
    let counts = scenes.status(Scene::Good).await["counts"].clone();
    assert_eq!((&counts["clients"], &counts["last_error"]), (&json!([]), &Value::Null));

    let attacks = parts(&reports, "attack");
    // 18 kinds from 4 places.
    assert_eq!(attacks.len(), 72);
    for attack in attacks {
        let learnt = attack["learnt"].as_str().unwrap();
        // A refusal may be read by a page of the same origin, which the rebound name is to the browser.
        let refusal = learnt.contains("forbidden_") || learnt.contains("codeseal: the Host header");
        assert!(learnt.is_empty() || learnt.starts_with("refused: ") || refusal, "{attack}");
        for status in attack["statuses"].as_array().unwrap() {
            assert_eq!(status, 403, "{attack}");
        }
    }
    // The requests did reach the proxy: it is not the browser alone that stopped them.
    for name in ["post without asking", "image", "post to the playground", "form"] {
        let seen = parts(&reports, "attack").into_iter().filter(|attack| attack["name"] == name);
        assert!(
            seen.clone().count() == 4 && seen.clone().all(|attack| attack["statuses"] != json!([])),
            "{name}"
        );
    }
    for navigation in parts(&reports, "navigation") {
        assert_eq!(navigation["status"], 403, "{navigation}");
    }
}

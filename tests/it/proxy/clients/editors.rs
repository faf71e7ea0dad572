//! Vim, Neovim and Emacs: their own job machinery or HTTP client, with the settings that `--editor` prints.

use std::sync::Arc;

use serde_json::json;

use super::driver::{Driver, file};
use super::outcome::{BOTH, Client, check, find, read};
use super::scenes::Scenes;
use crate::harness::ENDLESS;

/// Drives an editor as llama.vim would. `killed` is the exit code of a job that was killed.
async fn drive(name: &'static str, driver: Driver, killed: i32) {
    let scenes = Arc::new(Scenes::new().await);
    let reports = driver.run(&scenes).await;
    let typing = reports.iter().find(|report| report["form"] == "typing").unwrap();
    assert_eq!(typing["codes"], json!(vec![killed; 4]), "{typing}");

    let outcomes = read(reports);
    check(&scenes, &outcomes, Client { name, forms: BOTH, tries_when_busy: 1, tells_of_break: true }).await;
    for form in BOTH {
        let problem = find(&outcomes, name, "cancelled", form).error.as_ref().unwrap();
        assert_eq!(problem.name, format!("exit {killed}"));
    }
    // curl says of a transfer that was cut that it is not whole.
    assert_eq!(find(&outcomes, name, "cut", "stream").error.as_ref().unwrap().name, "exit 18");

    let typed = find(&outcomes, name, "good", "typing");
    let body = json!({ "prompt": format!("{ENDLESS}a.a.a"), "suffix": "\n", "max_tokens": 12 });
    assert_eq!(typed.shown, scenes.expected(body).await);
    // Four that were killed, and the one that was answered.
    assert_eq!(typed.requests, 5);
    let warm = find(&outcomes, name, "good", "warm");
    assert!(warm.error.is_none() && warm.shown.is_empty(), "{warm:?}");
    let deadline = find(&outcomes, name, "good", "deadline");
    assert!(deadline.error.is_none() && !deadline.shown.is_empty(), "{deadline:?}");
}

#[tokio::test]
#[ignore = "needs Vim: set CODESEAL_EDITORS_VIM"]
async fn vim() {
    let script = file("tests/editors/infill.vim");
    let driver =
        Driver::new("CODESEAL_EDITORS_VIM").args(&["-es", "-N", "-u", "NONE", "-i", "NONE", "-n", "-S"]);
    drive("vim", driver.arg(script), -1).await;
}

#[tokio::test]
#[ignore = "needs Neovim: set CODESEAL_EDITORS_NEOVIM"]
async fn neovim() {
    let script = file("tests/editors/infill.vim");
    let driver =
        Driver::new("CODESEAL_EDITORS_NEOVIM").args(&["--headless", "-u", "NONE", "-i", "NONE", "-n", "-S"]);
    drive("neovim", driver.arg(script), 143).await;
}

#[tokio::test]
#[ignore = "needs Emacs: set CODESEAL_EDITORS_EMACS"]
async fn emacs() {
    let scenes = Arc::new(Scenes::new().await);
    let script = file("tests/editors/infill.el");
    let driver = Driver::new("CODESEAL_EDITORS_EMACS").args(&["--batch", "--quick", "--load"]).arg(script);
    let outcomes = read(driver.run(&scenes).await);
    let client = Client { name: "emacs", forms: &["whole"], tries_when_busy: 1, tells_of_break: true };
    check(&scenes, &outcomes, client).await;
}

//! A repository with files that must go with a prompt and files that must not.

use std::fs;
use std::os::unix::fs::symlink;

use tempfile::TempDir;

use super::index::{Index, MAX_ENTRIES, MAX_FILES, MAX_READ_FILES, text};
use super::*;
use crate::proxy::dialect::{self, Task};

/// Is in every file that must not be sent.
const CANARY: &str = "canary_q7x";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn code(name: &str) -> String {
    (0..12).map(|line| format!("{name}_value_{line} = compute_{name}({line})\n")).collect()
}

/// A repository in a directory that has more than it.
fn fixture() -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap().join("repository");
    let write = |path: &str, text: &str| write(&root, path, text);
    fs::create_dir_all(root.join(".git")).unwrap();
    write(".gitignore", "ignored/\n*.log.py\n!kept.log.py\n");
    write(".codesealignore", "confidential/**\nlocal_*.py\n");
    write(
        "app/main.py",
        &format!("import os\nfrom app.prices import price\nfrom . import rules\n{}", code("main")),
    );
    write("app/prices.py", &code("prices"));
    write("app/rules.py", &code("rules"));
    write("app/other.py", &code("other"));
    for path in [
        "ignored/prices.py",
        "x.log.py",
        "confidential/prices.py",
        "app/local_prices.py",
        ".hidden/prices.py",
        ".env",
        "secrets/prices.py",
        "app/id_prices.py",
        "nested/.git/config",
        "nested/prices.py",
    ] {
        write(path, &format!("{}# {CANARY}\n", code("prices")));
    }
    write("app/key_holder.py", &format!("{}password = 'correct7horse9battery' # {CANARY}\n", code("holder")));
    self::write(dir.path(), "outside/prices.py", &format!("{}# {CANARY}\n", code("outside")));
    symlink(dir.path().join("outside"), root.join("linked")).unwrap();
    symlink(dir.path().join("outside/prices.py"), root.join("app/linked.py")).unwrap();
    (dir, root)
}

fn walk(root: &Path) -> Index {
    Index::walk(root, &Index::default(), Duration::MAX)
}

fn hole(body: &serde_json::Value) -> Hole {
    let ask = dialect::read(dialect::Endpoint::Completions, body.to_string().as_bytes()).unwrap();
    let Task::Hole(hole) = ask.task else { panic!("a hole") };
    hole
}

fn plain(prefix: &str, suffix: &str) -> Hole {
    hole(&serde_json::json!({ "prompt": prefix, "suffix": suffix }))
}

#[test]
fn files_that_are_ignored_secret_or_outside_are_never_known_or_read() {
    let (_dir, root) = fixture();
    let index = walk(&root);
    for path in ["app/main.py", "app/prices.py", "app/rules.py", "app/other.py", "app/key_holder.py"] {
        assert!(index.contains(path), "{path}");
    }
    for path in [
        "ignored/prices.py",
        "x.log.py",
        "confidential/prices.py",
        "app/local_prices.py",
        ".hidden/prices.py",
        ".env",
        "secrets/prices.py",
        "app/id_prices.py",
        "nested/prices.py",
        "linked/prices.py",
        "app/linked.py",
        "../outside/prices.py",
        ".git/config",
        ".gitignore",
    ] {
        assert!(!index.contains(path), "{path}");
    }
    assert!(text(&root, "app/prices.py").is_some());
    for path in
        ["linked/prices.py", "app/linked.py", "../outside/prices.py", "app/key_holder.py", "app", "gone.py"]
    {
        assert!(text(&root, path).is_none(), "{path}");
    }
}

#[test]
fn a_rule_that_cannot_be_read_leaves_no_file_to_use() {
    let (_dir, root) = fixture();
    fs::write(root.join(".codesealignore"), "a{b\n").unwrap();
    let index = walk(&root);
    assert!(!index.contains("app/prices.py"));
    assert!(index.trouble().unwrap().contains("an ignore file cannot be read"), "{:?}", index.trouble());
}

#[test]
fn the_file_is_found_in_each_way_that_clients_tell_it() {
    let (_dir, root) = fixture();
    let index = walk(&root);
    let found = |hole: &Hole| which::file(&index, &root, hole, hole.prefix.expose()).map(str::to_owned);
    let main = Some("app/main.py".to_owned());
    let text = fs::read_to_string(root.join("app/main.py")).unwrap();
    for path in
        ["app/main.py", "./app/main.py", "checkout/app/main.py", root.join("app/main.py").to_str().unwrap()]
    {
        let tabby = serde_json::json!({ "segments": { "prefix": "x", "suffix": "y", "filepath": path } });
        assert_eq!(found(&hole(&tabby)), main, "{path}");
    }
    let header = "app/other.py\nx = 1\n<|file_sep|>app/main.py\n<|fim_prefix|>x<|fim_suffix|>y<|fim_middle|>";
    assert_eq!(found(&hole(&serde_json::json!({ "prompt": header }))), main);
    let comment = "# Path: app/other.py\n# other = 1\n# app/main.py\nx = ";
    assert_eq!(found(&plain(comment, "\n")), main);
    // By its lines, while a new one is typed.
    assert_eq!(found(&plain(&format!("{text}new_line = "), "\n")), main);
    assert_eq!(found(&plain("some = 1\nthing = 2\nelse_ = 3\n", "\n")), None);
    // A path outside, or of a file that may not be used.
    for path in ["/etc/passwd", "../outside/prices.py", ".env", "secrets/prices.py"] {
        let tabby = serde_json::json!({ "segments": { "prefix": "x", "suffix": "y", "filepath": path } });
        assert_eq!(found(&hole(&tabby)), None, "{path}");
    }
}

#[test]
fn imports_of_the_common_languages_lead_to_files() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join(".git")).unwrap();
    for (from, text, expected) in [
        (
            "py/app/a.py",
            "from app.util import (one, two)\nimport app.deep.c as c\nfrom .near import x\n",
            &["py/app/util.py", "py/app/deep/c.py", "py/app/near.py"][..],
        ),
        (
            "js/src/a.ts",
            "import { x } from './lib/util'\nconst y = require(\"../shared/y.js\")\nimport z from \"./z/index\"\n",
            &["js/src/lib/util.ts", "js/shared/y.js", "js/src/z/index.ts"],
        ),
        (
            "rs/src/a.rs",
            "mod b;\npub mod c;\nuse crate::d::e::Thing;\nuse std::fs::File;\n",
            &["rs/src/b.rs", "rs/src/c/mod.rs", "rs/src/d/e.rs"],
        ),
        ("c/src/a.c", "#include <stdio.h>\n#include \"deep/b.h\"\n", &["c/include/deep/b.h"]),
        ("java/src/A.java", "import com.example.shop.Cart;\n", &["java/src/com/example/shop/Cart.java"]),
    ] {
        write(&root, from, text);
        expected.iter().for_each(|path| write(&root, path, "x\n"));
        let index = walk(&root);
        assert_eq!(imports::imported(&index, from, text), expected, "{from}");
    }
}

#[test]
fn the_file_that_changed_last_stands_last_and_the_bounds_hold() {
    let (_dir, root) = fixture();
    let long: String = (0..2000).map(|line| format!("other_value_{line} = {line}\n")).collect();
    fs::write(root.join("app/other.py"), &long).unwrap();
    let times = [("app/rules.py", 100), ("app/prices.py", 200), ("app/other.py", 300)];
    for (path, seconds) in times {
        let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        fs::File::options().write(true).open(root.join(path)).unwrap().set_modified(time).unwrap();
    }
    let index = walk(&root);
    let recent = ["app/main.py", "app/other.py", "app/key_holder.py"].map(str::to_owned);
    let chosen = Chosen::make(&root, &index, "app/main.py", &recent);
    let paths: Vec<&str> = chosen.files.iter().map(|file| file.path.expose().as_str()).collect();
    assert_eq!(paths, ["app/rules.py", "app/prices.py", "app/other.py"]);
    let other = chosen.files.last().unwrap().text.expose();
    assert!(other.len() <= 4096 && other.ends_with('\n') && long.starts_with(other.as_str()));
    assert!(chosen.files.iter().all(|file| !file.text.expose().contains(CANARY)));
}

#[test]
fn a_repository_is_found_from_a_directory_in_it_and_nowhere_else() {
    let (dir, root) = fixture();
    assert_eq!(Repository::open(&root.join("app")).unwrap().root, root);
    assert_eq!(Repository::open(&dir.path().join("outside")).unwrap_err(), NoRepository);
    assert_eq!(Repository::open(Path::new("/nonexistent")).unwrap_err(), NoRepository);
}

/// Bounded work, whatever the repository holds: entries that are looked at, files that are known, files that are read.
#[test]
fn a_hundred_thousand_files_are_looked_at_within_bounds_and_read_once() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join(".git")).unwrap();
    let text = code("many");
    for directory in 0..100 {
        let path = root.join(format!("d{directory}"));
        fs::create_dir(&path).unwrap();
        for file in 0..1000 {
            fs::write(path.join(format!("f{file}.py")), &text).unwrap();
        }
    }
    let index = walk(&root);
    assert_eq!(index.len(), MAX_FILES);
    assert_eq!(index.work.read, MAX_READ_FILES);
    assert!((MAX_FILES..=MAX_ENTRIES).contains(&index.work.entries), "{:?}", index.work);
    // The same again reads nothing, and one file that has changed is one file that is read.
    let again = Index::walk(&root, &index, Duration::MAX);
    assert_eq!((again.work.entries, again.work.read), (index.work.entries, 0));
    let mut paths = (0..100_000).map(|at| format!("d{}/f{}.py", at / 1000, at % 1000));
    let known = paths.find(|path| index.contains(path)).unwrap();
    fs::write(root.join(&known), format!("{text}# changed\n")).unwrap();
    assert_eq!(Index::walk(&root, &again, Duration::MAX).work.read, 1);
    // Without time, nothing is looked at.
    assert_eq!(Index::walk(&root, &Index::default(), Duration::ZERO).work.read, 0);
}

/// Files that may not be used are counted too: nothing makes a walk endless.
#[test]
fn entries_that_cannot_be_used_are_counted_as_well() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    fs::create_dir(root.join(".git")).unwrap();
    for name in ["id_1.py", "secret_2.py", "a.pem"] {
        fs::write(root.join(name), "x").unwrap();
    }
    let index = walk(&root);
    // The root itself is an entry.
    assert_eq!((index.len(), index.work.entries), (0, 4));
}

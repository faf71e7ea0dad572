//! The scan finds violations that were planted, in every form that Rust has for a path.

use std::collections::BTreeMap;

use super::law::{file_cycles, list, module_cycles, violations};
use super::scan::Tree;

const A: &str = "//! A.\n//!\n//! Allowed modules: none.\n//! Forbidden: tokio, std::fs, google_*.\n";
const B: &str =
    "//! B.\n//! Allowed modules: none.\npub struct Thing;\npub mod deep { pub fn f() {} }\npub fn g() {}\n";

fn tree(files: &[(&str, &str)]) -> Tree {
    let files: BTreeMap<&str, &str> = files.iter().copied().collect();
    Tree::read("lib.rs", &|path| files.get(path).map(ToString::to_string))
}

/// What is found when the module `a` has this code; there are `b` and `c`, which re-exports `b::Thing`.
fn in_a(code: &str) -> Vec<String> {
    let c =
        "//! C.\n//! Allowed modules: b.\npub use crate::b::Thing as Other;\npub use crate::b::deep::*;\n";
    let text = format!("{A}{code}");
    violations(&tree(&[
        ("lib.rs", "pub mod a;\npub mod b;\npub mod c;"),
        ("a.rs", &text),
        ("b.rs", B),
        ("c.rs", c),
    ]))
    .into_iter()
    .filter(|line| line.contains("`a` may"))
    .collect()
}

#[test]
fn code_that_keeps_the_law_is_not_reported() {
    for code in [
        "use std::io::Read;",
        "// use crate::b::Thing;",
        "fn f() { let text = \"crate::b::Thing\"; }",
        "#[cfg(test)]\nmod tests { use crate::b::Thing; }",
        "#[cfg(test)]\nuse crate::b::Thing;",
        "#[test]\nfn f() { crate::b::g() }",
        "mod own { pub fn f() {} }\nfn g() { own::f(); self::own::f() }",
        "fn f() { tokio_other::f() }",
    ] {
        assert_eq!(in_a(code), Vec::<String>::new(), "{code}");
    }
}

#[test]
fn every_form_of_a_path_to_a_module_is_found() {
    for code in [
        "use crate::b::Thing;",
        "use crate::{b::Thing, a};",
        "use crate::{self as root};\nfn f() { root::b::g() }",
        "use crate::{\n    a,\n    b::{deep::{f}, Thing},\n};",
        "use super::b;",
        "use super::b as other;\nfn f() { other::g() }",
        "use crate::b::*;",
        "pub use crate::b::Thing;",
        "pub(crate) use super::b::deep;",
        "mod own { use super::super::b::Thing; }",
        "mod own { mod deeper { fn f() { super::super::super::b::g() } } }",
        "fn f() { crate::b::g() }",
        "fn f() { use crate::b::g; g() }",
        "fn f(thing: crate::b::Thing) {}",
        "fn f() -> Option<Box<super::b::Thing>> { None }",
        "impl crate::b::Thing { fn f() {} }",
        "fn f(x: u8) { match x { crate::b::ONE => {} _ => {} } }",
        "fn f() { println!(\"{}\", crate::b::g()) }",
        "fn f() { select! { x = async { super::b::g() } => {} } }",
        "macro_rules! m { () => { $crate::b::g() } }",
        "#[derive(Serialize)]\nstruct S { #[serde(with = \"crate::b::deep\")] x: u8 }",
        "#[cfg(feature = \"x\")]\nuse crate::b::Thing;",
        "#[cfg(any(test, feature = \"x\"))]\nuse crate::b::Thing;",
        "struct S;\nimpl S { fn f(&self) { crate::b::g() } }",
    ] {
        let found = in_a(code);
        assert!(found.iter().any(|line| line.contains("`b::")), "{code}: {found:?}");
    }
}

#[test]
fn a_reexport_does_not_hide_where_an_item_comes_from() {
    for code in [
        "use crate::c::Other;",
        "fn f() { crate::c::Other }",
        "use crate::c;\nfn f() { c::Other }",
        "use crate::c::f;",
        "use crate::c::*;",
    ] {
        let found = in_a(code);
        for module in ["`b::", "`c::"] {
            assert!(found.iter().any(|line| line.contains(module)), "{code}: {found:?}");
        }
    }
}

#[test]
fn every_form_of_a_path_to_a_forbidden_crate_is_found() {
    for (code, entry) in [
        ("use tokio::time;", "tokio"),
        ("use std::{io, fs};", "std::fs"),
        ("use std::fs as files;\nfn f() { files::read() }", "std::fs"),
        ("use std as s;\nfn f() { s::fs::read() }", "std::fs"),
        ("fn f() { ::std::fs::read() }", "std::fs"),
        ("extern crate tokio as t;\nfn f() { t::spawn() }", "tokio"),
        ("fn f() { tokio::select! { _ = x => {} } }", "tokio"),
        ("#[tokio::main]\nfn f() {}", "tokio"),
        ("fn f() { assert!(google_cloud::g()) }", "google_*"),
    ] {
        let found = in_a(code);
        assert!(found.iter().any(|line| line.contains(&format!("`{entry}`"))), "{code}: {found:?}");
    }
}

#[test]
fn async_code_is_found_where_it_is_forbidden() {
    for code in [
        "async fn f() {}",
        "fn f() { async {} }",
        "fn f() { async || {} }",
        "trait T { async fn f(&self); }",
        "fn f() { block_on!(async {}) }",
    ] {
        let text = format!("//! A.\n//! Allowed modules: none.\n//! Forbidden: async.\n{code}");
        let found = violations(&tree(&[("lib.rs", "mod a;"), ("a.rs", &text)]));
        assert!(found.iter().any(|line| line.contains("`async`")), "{code}: {found:?}");
    }
}

#[test]
fn a_module_without_a_law_and_a_law_that_is_too_wide_are_reported() {
    let found = violations(&tree(&[("lib.rs", "mod a;\nmod b;"), ("a.rs", A), ("b.rs", "//! B.")]));
    assert_eq!(found, ["b.rs: the doc comment has no line `Allowed modules: …`"]);
    let wide = "//! A.\n//! Allowed modules: b, b::Thing.\nuse crate::b::Thing;";
    let found = violations(&tree(&[("lib.rs", "mod a;\nmod b;"), ("a.rs", wide), ("b.rs", B)]));
    assert_eq!(found, ["`a` allows `b::Thing`, which it does not use"]);
}

#[test]
fn a_law_may_name_single_items() {
    let law = "//! A.\n//! Allowed modules: b::Thing.\n";
    let found = |code: &str| {
        let text = format!("{law}{code}");
        violations(&tree(&[("lib.rs", "mod a;\nmod b;"), ("a/mod.rs", &text), ("b.rs", B)]))
    };
    assert_eq!(found("use crate::b::Thing;"), Vec::<String>::new());
    assert_eq!(found("use crate::b::{Thing, g};"), ["a/mod.rs:3: `a` may not use `b::g`"]);
}

#[test]
fn a_folder_may_have_a_law_about_its_siblings() {
    let found = violations(&tree(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "//! A.\n//! Allowed modules: none.\nmod low;\nmod high;"),
        ("a/low/mod.rs", "//! Low.\n//! Allowed modules: none.\nmod leaf;"),
        ("a/low/leaf.rs", "use crate::a::high::f;"),
        ("a/high.rs", "pub fn f() {}"),
    ]));
    assert_eq!(found, ["a/low/leaf.rs:1: `a::low` may not use `high::f`"]);
}

#[test]
fn circles_are_found_through_any_number_of_modules() {
    let three = tree(&[
        ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;"),
        ("a.rs", "use crate::b::B;"),
        ("b.rs", "fn f() { crate::c::f() }"),
        ("c.rs", "fn f() { println!(\"{}\", crate::a::A) }"),
        ("d.rs", "use crate::a::A;"),
    ]);
    assert_eq!(module_cycles(&three), [["a", "b", "c"]]);
    assert_eq!(file_cycles(&three), [["a.rs", "b.rs", "c.rs"]]);
    // A module and its parent know each other by nature; two siblings do not.
    let siblings = tree(&[
        ("lib.rs", "mod a;"),
        ("a/mod.rs", "mod x;\nmod y;\npub use self::x::X;"),
        ("a/x.rs", "use super::Helper;\nuse super::y::Y;"),
        ("a/y.rs", "use crate::a::X;"),
    ]);
    assert_eq!(file_cycles(&siblings), [["a/x.rs", "a/y.rs"]]);
    assert!(module_cycles(&siblings).is_empty());
}

#[test]
fn a_list_may_go_on_over_lines() {
    let docs = ["A.", "", "Allowed modules: b,", "c::D, e.", "Forbidden: none."].map(str::to_owned);
    assert_eq!(list(&docs, "Allowed modules:").unwrap(), ["b", "c::D", "e"]);
    assert_eq!(list(&docs, "Forbidden:").unwrap(), Vec::<String>::new());
    assert_eq!(list(&docs, "Other:"), None);
}

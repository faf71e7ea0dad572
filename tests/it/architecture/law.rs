//! What a module's doc comment says it may use, and what a tree does against it.
//!
//! `Allowed modules: keys, protocol, model::ModelFiles.` names siblings, or single items of them; the list is exact.
//! `Forbidden: axum, google_cloud_*, std::fs, async.` names paths of other crates. A list ends with a full stop and may go
//! on over several lines.

use std::collections::{BTreeMap, BTreeSet};

use super::scan::{Path, Tree};

/// The list behind `key` in a doc comment.
pub(crate) fn list(docs: &[String], key: &str) -> Option<Vec<String>> {
    let start = docs.iter().position(|line| line.starts_with(key))?;
    let text = docs[start..].join(" ");
    let text = text.strip_prefix(key)?;
    let (text, _) = text.split_once(". ").or_else(|| text.split_once(".")).unwrap_or((text, ""));
    let names = text.split(',').map(|name| name.trim().trim_matches('`').to_owned());
    Some(names.filter(|name| !name.is_empty() && name != "none").collect())
}

/// What the modules of `tree` use against their own word, one line each.
pub(crate) fn violations(tree: &Tree) -> Vec<String> {
    let mut found = Vec::new();
    for (path, module) in &tree.modules {
        let allowed = list(&module.docs, "Allowed modules:");
        if allowed.is_none() && path.len() == 2 {
            found.push(format!("{}: the doc comment has no line `Allowed modules: …`", module.file));
        }
        if let Some(allowed) = allowed {
            found.extend(outside(tree, path, &allowed));
        }
        if let Some(forbidden) = list(&module.docs, "Forbidden:") {
            found.extend(forbidden_uses(tree, path, &forbidden));
        }
    }
    found
}

/// The modules in `path`, itself included.
fn inside<'a>(tree: &'a Tree, path: &'a Path) -> impl Iterator<Item = &'a Path> {
    tree.modules.keys().filter(move |module| module.starts_with(path))
}

/// Siblings that the module at `path` uses, each with the first place and the items that are used.
fn siblings(tree: &Tree, path: &Path) -> BTreeMap<String, Vec<(String, String)>> {
    let parent = &path[..path.len() - 1];
    let mut siblings: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for module in inside(tree, path) {
        for used in tree.uses(module) {
            let Some(owner) = &used.owner else { continue };
            if !owner.starts_with(parent) || owner.starts_with(path) || owner.len() == parent.len() {
                continue;
            }
            let item = used.path[owner.len().min(used.path.len())..].first().cloned().unwrap_or_default();
            let place = format!("{}:{}", tree.modules[module].file, used.line);
            siblings.entry(owner[parent.len()].clone()).or_default().push((item, place));
        }
    }
    siblings
}

fn outside(tree: &Tree, path: &Path, allowed: &[String]) -> Vec<String> {
    let name = path[1..].join("::");
    let (mut found, mut spent) = (Vec::new(), BTreeSet::new());
    for (sibling, uses) in siblings(tree, path) {
        for (item, place) in uses {
            let whole = allowed.iter().find(|entry| **entry == sibling);
            let single = format!("{sibling}::{item}");
            match whole.or_else(|| allowed.iter().find(|entry| **entry == single)) {
                Some(entry) => drop(spent.insert(entry.clone())),
                None => found.push(format!("{place}: `{name}` may not use `{single}`")),
            }
        }
    }
    let unused = allowed.iter().filter(|entry| !spent.contains(*entry));
    found.extend(unused.map(|entry| format!("`{name}` allows `{entry}`, which it does not use")));
    found
}

fn forbidden_uses(tree: &Tree, path: &Path, forbidden: &[String]) -> Vec<String> {
    let name = path[1..].join("::");
    let mut found = Vec::new();
    for module in inside(tree, path) {
        let file = &tree.modules[module].file;
        for used in tree.uses(module).iter().filter(|used| used.owner.is_none()) {
            if let Some(entry) = forbidden.iter().find(|entry| matches(entry, &used.path)) {
                found.push(format!("{file}:{}: `{name}` may not use `{entry}`", used.line));
            }
        }
        if forbidden.iter().any(|entry| entry == "async") {
            let lines = tree.asyncs(module).iter();
            found.extend(lines.map(|line| format!("{file}:{line}: `{name}` may not be `async`")));
        }
    }
    found
}

/// Whether `path` is `entry`, inside it, or a glob that may bring it in; a star ends a prefix of a name.
pub(crate) fn matches(entry: &str, path: &[String]) -> bool {
    let parts: Vec<&str> = entry.split("::").collect();
    let is_glob = path.last().is_some_and(|name| name == "*");
    (path.len() >= parts.len() || is_glob)
        && parts.iter().zip(path).filter(|(_, name)| *name != "*").all(|(part, name)| {
            match part.strip_suffix('*') {
                Some(prefix) => name.starts_with(prefix),
                None => part == name,
            }
        })
}

/// Circles among the crate's top-level modules, by name.
pub(crate) fn module_cycles(tree: &Tree) -> Vec<Vec<String>> {
    let tops = tree.modules.keys().filter(|path| path.len() == 2);
    let edges = tops.map(|path| (path[1].clone(), siblings(tree, path).into_keys().collect()));
    cycles(&edges.collect())
}

/// Circles among files. A module and the modules inside it know each other by nature: those arrows do not count.
pub(crate) fn file_cycles(tree: &Tree) -> Vec<Vec<String>> {
    let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (path, module) in &tree.modules {
        let targets = edges.entry(module.file.clone()).or_default();
        for owner in tree.uses(path).iter().filter_map(|used| used.owner.as_ref()) {
            if !path.starts_with(owner) && !owner.starts_with(path) {
                targets.insert(tree.modules[owner].file.clone());
            }
        }
        targets.remove(&module.file);
    }
    cycles(&edges)
}

/// Groups of names that reach each other.
fn cycles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<Vec<String>> {
    let reach = |from: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
        while let Some(name) = open.pop() {
            for next in edges.get(name).into_iter().flatten() {
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        seen
    };
    let reached: BTreeMap<&String, BTreeSet<&String>> =
        edges.keys().map(|name| (name, reach(name))).collect();
    let mut groups: BTreeSet<Vec<String>> = BTreeSet::new();
    for (name, targets) in reached.iter().filter(|(name, targets)| targets.contains(*name)) {
        let group =
            targets.iter().filter(|other| reached.get(*other).is_some_and(|back| back.contains(*name)));
        groups.insert(group.map(|other| (*other).clone()).collect());
    }
    groups.into_iter().collect()
}

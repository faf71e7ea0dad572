//! Reads a crate's module tree with `syn`: what each module uses, through grouped imports, `super` paths, paths in
//! expressions, macros and attributes, aliases and re-exports. Items under `#[cfg(test)]` are left out.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Span, TokenStream, TokenTree};
use syn::spanned::Spanned as _;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Item, Lit, Meta, UseTree};

/// Segments of a path. Paths inside the crate begin with `crate`.
pub(crate) type Path = Vec<String>;

/// A file's text by its path below the source folder, such as `server/mod.rs`; `None` if there is no such file.
pub(crate) type Read<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// All modules of a crate by their path.
#[derive(Debug)]
pub(crate) struct Tree {
    pub(crate) modules: BTreeMap<Path, Module>,
    uses: BTreeMap<Path, Vec<Use>>,
}

/// One module.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// Below the source folder.
    pub(crate) file: String,
    /// Lines of the module's own doc comment.
    pub(crate) docs: Vec<String>,
    /// What it uses, as written.
    written: Vec<Written>,
    /// Names that `use` brings in, and what they stand for.
    aliases: BTreeMap<String, Path>,
    /// Modules and crates whose names all come in.
    globs: Vec<Path>,
    /// Items that are defined here.
    items: BTreeSet<String>,
    /// Lines with `async`.
    asyncs: Vec<usize>,
}

#[derive(Debug)]
struct Written {
    path: Path,
    line: usize,
}

/// Something that a module uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Use {
    /// In the crate: the module that holds it and its name there. Else the path in another crate.
    pub(crate) path: Path,
    /// The module that holds it; `None` for other crates.
    pub(crate) owner: Option<Path>,
    pub(crate) line: usize,
}

impl Tree {
    /// Reads `root`, such as `lib.rs`, and every file that it declares.
    pub(crate) fn read(root: &str, read: &Read<'_>) -> Self {
        let mut tree = Self { modules: BTreeMap::new(), uses: BTreeMap::new() };
        tree.file(vec!["crate".to_owned()], root, "", read);
        tree.uses = tree.modules.keys().map(|path| (path.clone(), tree.resolve(path))).collect();
        tree
    }

    fn file(&mut self, path: Path, file: &str, folder: &str, read: &Read<'_>) {
        let text = read(file).unwrap_or_else(|| panic!("{file} does not exist"));
        let syntax = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file}: {error}"));
        self.module(path, file, folder, &syntax.attrs, &syntax.items, read);
    }

    fn module(
        &mut self,
        path: Path,
        file: &str,
        folder: &str,
        attributes: &[Attribute],
        items: &[Item],
        read: &Read<'_>,
    ) {
        let mut visitor = Visitor::default();
        visitor.module.file = file.to_owned();
        visitor.module.docs = docs(attributes);
        for item in items {
            visitor.visit_item(item);
        }
        let children = std::mem::take(&mut visitor.children);
        self.modules.insert(path.clone(), visitor.module);
        for child in children {
            let name = child.ident.to_string();
            let path = [&path[..], std::slice::from_ref(&name)].concat();
            let inner = format!("{folder}{name}/");
            match &child.content {
                Some((_, items)) => self.module(path, file, &inner, &child.attrs, items, read),
                None => {
                    let flat = format!("{folder}{name}.rs");
                    let file = if read(&flat).is_some() { flat } else { format!("{inner}mod.rs") };
                    self.file(path, &file, &inner, read);
                }
            }
        }
    }

    /// Everything that the module at `path` uses outside of itself, re-exports followed: each module on the way, and the
    /// one that holds the item.
    pub(crate) fn uses(&self, path: &Path) -> &[Use] {
        &self.uses[path]
    }

    fn resolve(&self, path: &Path) -> Vec<Use> {
        let mut uses = Vec::new();
        for written in &self.modules[path].written {
            self.follow(self.absolute(path, &written.path, 0), written.line, 0, &mut uses);
        }
        uses.retain(|used| used.owner.as_ref() != Some(path));
        uses
    }

    /// Lines of the module at `path` with `async`.
    pub(crate) fn asyncs(&self, path: &Path) -> &[usize] {
        &self.modules[path].asyncs
    }

    /// What `path`, as written in `module`, stands for.
    fn absolute(&self, module: &Path, path: &[String], depth: usize) -> Path {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        match first.as_str() {
            "crate" => path.to_vec(),
            "self" | "super" => {
                // `self::super::x` is a path, too.
                let above = path.iter().take_while(|part| *part == "self" || *part == "super");
                let above = above.filter(|part| *part == "super").count();
                let rest = path.iter().skip_while(|part| *part == "self" || *part == "super");
                module[..module.len().saturating_sub(above).max(1)].iter().chain(rest).cloned().collect()
            }
            name => {
                let child = [&module[..], std::slice::from_ref(first)].concat();
                let here = &self.modules[module];
                if self.modules.contains_key(&child) || here.items.contains(name) {
                    return [&module[..], path].concat();
                }
                match here.aliases.get(name) {
                    // An alias may be of another alias, and `use tokio;` is one of itself.
                    Some(target) if depth < 8 && target.first() != Some(first) => {
                        self.absolute(module, &[&target[..], rest].concat(), depth + 1)
                    }
                    Some(target) => [&target[..], rest].concat(),
                    None => path.to_vec(),
                }
            }
        }
    }

    /// Notes the modules that an absolute path leads through and to.
    fn follow(&self, path: Path, line: usize, depth: usize, uses: &mut Vec<Use>) {
        if path.first().is_none_or(|first| first != "crate") {
            uses.push(Use { path, owner: None, line });
            return;
        }
        let mut module = vec!["crate".to_owned()];
        for (index, segment) in path.iter().enumerate().skip(1) {
            let child = [&module[..], std::slice::from_ref(segment)].concat();
            if self.modules.contains_key(&child) {
                module = child;
                continue;
            }
            // Of the module itself too: what it re-exports is named there.
            let named = path[..=index].to_vec();
            uses.push(Use { path: named, owner: Some(module.clone()), line });
            if depth < 16 {
                self.reexports(&module, segment, &path[index + 1..], line, depth, uses);
            }
            return;
        }
        uses.push(Use { path: module.clone(), owner: Some(module), line });
    }

    /// Follows what `module` has under the name `segment`, if it comes from elsewhere.
    fn reexports(
        &self,
        module: &Path,
        segment: &str,
        rest: &[String],
        line: usize,
        depth: usize,
        uses: &mut Vec<Use>,
    ) {
        let here = &self.modules[module];
        if segment == "*" {
            let targets = here.aliases.values().chain(&here.globs);
            for target in targets.filter(|_| depth == 0) {
                self.follow(self.absolute(module, target, 0), line, depth + 1, uses);
            }
        } else if let Some(target) = here.aliases.get(segment).filter(|_| !here.items.contains(segment)) {
            let target = self.absolute(module, target, 0);
            self.follow([&target[..], rest].concat(), line, depth + 1, uses);
        } else if !here.items.contains(segment) {
            for glob in &here.globs {
                let target = self.absolute(module, glob, 0);
                if self.defines(&target, segment, depth) {
                    self.follow([&target[..], &[segment.to_owned()], rest].concat(), line, depth + 1, uses);
                }
            }
        }
    }

    fn defines(&self, module: &Path, name: &str, depth: usize) -> bool {
        let Some(here) = self.modules.get(module) else { return false };
        here.items.contains(name)
            || here.aliases.contains_key(name)
            || depth < 16
                && here
                    .globs
                    .iter()
                    .any(|glob| self.defines(&self.absolute(module, glob, 0), name, depth + 1))
    }
}

/// The lines of a doc comment.
fn docs(attributes: &[Attribute]) -> Vec<String> {
    let lines = attributes.iter().filter_map(|attribute| match &attribute.meta {
        Meta::NameValue(meta) if meta.path.is_ident("doc") => match &meta.value {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value().trim().to_owned()),
                _ => None,
            },
            _ => None,
        },
        _ => None,
    });
    lines.collect()
}

fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("test")
            || matches!(&attribute.meta, Meta::List(list)
                if list.path.is_ident("cfg") && list.tokens.to_string() == "test")
    })
}

fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::Enum(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Macro(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Static(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Trait(item) => &item.attrs,
        Item::Type(item) => &item.attrs,
        Item::Union(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

#[derive(Default)]
struct Visitor {
    module: Module,
    children: Vec<syn::ItemMod>,
    /// Inside a function: its items are not the module's.
    depth: usize,
}

impl Visitor {
    fn path(&mut self, path: Path, span: Span) {
        self.module.written.push(Written { path, line: span.start().line });
    }

    fn use_tree(&mut self, prefix: &[String], tree: &UseTree) {
        let join = |name: &syn::Ident| [prefix, &[name.to_string()]].concat();
        match tree {
            UseTree::Path(path) => self.use_tree(&join(&path.ident), &path.tree),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.use_tree(prefix, tree)),
            UseTree::Glob(glob) => {
                self.module.globs.push(prefix.to_vec());
                self.path([prefix, &["*".to_owned()]].concat(), glob.span());
            }
            UseTree::Name(name) if name.ident == "self" => self.import(prefix.to_vec(), None, name.span()),
            UseTree::Name(name) => self.import(join(&name.ident), None, name.span()),
            UseTree::Rename(rename) => {
                let path = if rename.ident == "self" { prefix.to_vec() } else { join(&rename.ident) };
                self.import(path, Some(rename.rename.to_string()), rename.span());
            }
        }
    }

    fn import(&mut self, path: Path, name: Option<String>, span: Span) {
        if let Some(name) = name.or_else(|| path.last().cloned()) {
            self.module.aliases.insert(name, path.clone());
        }
        self.path(path, span);
    }

    /// Paths among tokens that are no syntax tree: arguments of macros and attributes.
    fn tokens(&mut self, tokens: TokenStream, texts: bool) {
        let mut path: Path = Vec::new();
        let mut start = Span::call_site();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(ident) => {
                    if ident == "async" {
                        self.module.asyncs.push(ident.span().start().line);
                    }
                    if colons != 2 {
                        self.finish(&mut path, start);
                        start = ident.span();
                    }
                    path.push(ident.to_string());
                    colons = 0;
                }
                TokenTree::Punct(punct) if punct.as_char() == ':' => colons += 1,
                TokenTree::Group(group) => {
                    self.finish(&mut path, start);
                    colons = 0;
                    self.tokens(group.stream(), texts);
                }
                TokenTree::Literal(literal) if texts => {
                    // serde takes paths in strings.
                    let text = literal.to_string();
                    let parsed = syn::parse_str::<syn::Path>(text.trim_matches('"'));
                    if let Some(parsed) = parsed.ok().filter(|parsed| parsed.segments.len() > 1) {
                        let path = parsed.segments.iter().map(|segment| segment.ident.to_string()).collect();
                        self.path(path, literal.span());
                    }
                }
                _ => {
                    self.finish(&mut path, start);
                    colons = 0;
                }
            }
        }
        self.finish(&mut path, start);
    }

    fn finish(&mut self, path: &mut Path, start: Span) {
        let path = std::mem::take(path);
        if path.len() > 1 {
            self.path(path, start);
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item(&mut self, item: &'ast Item) {
        if is_test(attributes(item)) {
            return;
        }
        let name = match item {
            Item::Const(item) => Some(&item.ident),
            Item::Enum(item) => Some(&item.ident),
            Item::Fn(item) => Some(&item.sig.ident),
            Item::Macro(item) => item.ident.as_ref(),
            Item::Static(item) => Some(&item.ident),
            Item::Struct(item) => Some(&item.ident),
            Item::Trait(item) => Some(&item.ident),
            Item::Type(item) => Some(&item.ident),
            Item::Union(item) => Some(&item.ident),
            _ => None,
        };
        if let Some(name) = name.filter(|_| self.depth == 0) {
            self.module.items.insert(name.to_string());
        }
        self.depth += 1;
        visit::visit_item(self, item);
        self.depth -= 1;
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.children.push(item.clone());
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.use_tree(&[], &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast syn::ItemExternCrate) {
        let name = item.rename.as_ref().map(|(_, name)| name.to_string());
        self.import(vec![item.ident.to_string()], name, item.span());
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if path.segments.len() > 1 {
            self.path(path.segments.iter().map(|part| part.ident.to_string()).collect(), path.span());
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.visit_path(&call.path);
        self.tokens(call.tokens.clone(), false);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.tokens(list.tokens.clone(), true);
        }
        self.visit_path(attribute.path());
    }

    fn visit_signature(&mut self, signature: &'ast syn::Signature) {
        self.module.asyncs.extend(signature.asyncness.map(|token| token.span().start().line));
        visit::visit_signature(self, signature);
    }

    fn visit_expr_async(&mut self, block: &'ast syn::ExprAsync) {
        self.module.asyncs.push(block.async_token.span().start().line);
        visit::visit_expr_async(self, block);
    }

    fn visit_expr_closure(&mut self, closure: &'ast syn::ExprClosure) {
        self.module.asyncs.extend(closure.asyncness.map(|token| token.span().start().line));
        visit::visit_expr_closure(self, closure);
    }
}

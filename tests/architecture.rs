//! The house rules, checked on the source itself: which room may know which, and how long files and functions may be.
//!
//! Dependencies point strictly down, and rooms on one floor never see each other:
//! cli > engine > policy, source, repo > codec, store > base.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

/// Each room with those it may use.
const HOUSE: &[(&str, &[&str])] = &[
    ("base", &[]),
    ("codec", &["base"]),
    ("store", &["base"]),
    ("policy", &["base"]),
    ("source", &["base"]),
    ("repo", &["base", "codec", "store"]),
    ("engine", &["base", "codec", "store", "policy", "source", "repo"]),
    ("cli", &["base", "codec", "store", "policy", "source", "repo", "engine"]),
];

const MAX_FILE_LINES: usize = 800;
const MAX_MAIN_LINES: usize = 60;
const MAX_FUNCTION_LINES: usize = 70;

/// Functions that may be longer: file, name, and why splitting them would make them harder to read.
const LONG_FUNCTIONS: &[(&str, &str, &str)] = &[];

#[test]
fn rooms_know_only_the_floors_below() {
    let house: BTreeMap<&str, &[&str]> = HOUSE.iter().copied().collect();
    let mut violations = Vec::new();
    for (path, code) in sources("src") {
        let module = module_of(&path);
        let Some(room) = module.first() else { continue };
        let Some(allowed) = house.get(room.as_str()) else {
            violations.push(format!("{}: '{room}' is no room of the house", path.display()));
            continue;
        };
        for target in rooms_used(&code, &module) {
            if target.room != *room && !allowed.contains(&target.room.as_str()) {
                violations.push(format!("{}:{}: '{room}' may not use '{}'", path.display(), target.line, target.room));
            }
        }
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn files_stay_readable_in_one_sitting() {
    let mut violations = Vec::new();
    for (path, code) in sources("src").into_iter().chain(sources("tests")) {
        let lines = code.lines().count();
        if lines > MAX_FILE_LINES {
            violations.push(format!("{}: {lines} lines, {MAX_FILE_LINES} at most", path.display()));
        }
        let is_unit_tests = path.ends_with("tests.rs");
        if !code.starts_with("//!") && !is_unit_tests {
            violations.push(format!("{}: no module header (//!)", path.display()));
        }
    }
    let main_lines = fs::read_to_string(root().join("src/main.rs")).unwrap().lines().count();
    if main_lines >= MAX_MAIN_LINES {
        violations.push(format!("src/main.rs: {main_lines} lines, fewer than {MAX_MAIN_LINES} wanted"));
    }
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

#[test]
fn functions_fit_on_a_screen() {
    let mut long = Vec::new();
    for (path, code) in sources("src") {
        let found = long_functions(&code).into_iter();
        long.extend(found.map(|(name, lines)| (path.display().to_string(), name, lines)));
    }
    let is_allowed = |file: &str, function: &str| LONG_FUNCTIONS.iter().any(|(f, n, _)| *f == file && *n == function);
    let mut violations: Vec<String> = long
        .iter()
        .filter(|(file, function, _)| !is_allowed(file, function))
        .map(|(file, function, lines)| format!("{file}: fn {function} has {lines} lines, {MAX_FUNCTION_LINES} at most"))
        .collect();
    let is_long = |file: &str, function: &str| long.iter().any(|(f, n, _)| f == file && n == function);
    let stale = LONG_FUNCTIONS.iter().filter(|(file, function, _)| !is_long(file, function));
    violations.extend(stale.map(|(file, function, _)| format!("{file}: fn {function} is short now: take it off the list")));
    assert!(violations.is_empty(), "\n{}\n", violations.join("\n"));
}

/// The checks above see what they are meant to see.
#[test]
fn the_inspector_is_not_blind() {
    let code = r#"
        use crate::{base::Lsn, store::{Store, list_all}};
        use super::super::repo::pack as p;
        fn f(x: crate::codec::Digest) { let _ = vec![crate::engine::run()]; super::local(); }
        mod inner { use super::super::super::policy; use super::near; }
        #[derive(Debug)] struct S;
        impl S { fn long(&self) {
        LINES
        } }
        #[cfg(test)] mod tests { fn long_but_a_test() {
        LINES
        } }
    "#;
    let code = code.replace("LINES", &"let _ = 1;\n".repeat(MAX_FUNCTION_LINES));
    let module = ["source".to_owned(), "postgres".to_owned()];
    let mut rooms: Vec<String> = rooms_used(&code, &module).into_iter().map(|used| used.room).collect();
    rooms.sort();
    rooms.dedup();
    assert_eq!(rooms, ["base", "codec", "engine", "policy", "repo", "source", "store"]);
    let long = long_functions(&code);
    assert_eq!(long.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["long"]);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All Rust files below `folder`, with paths relative to the package.
fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut files = Vec::new();
    let mut folders = vec![root().join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let code = fs::read_to_string(&path).unwrap();
                files.push((path.strip_prefix(root()).unwrap().to_owned(), code));
            }
        }
    }
    assert!(!files.is_empty(), "no Rust files below {folder}");
    files.sort();
    files
}

/// `src/source/postgres/mod.rs` → `[source, postgres]`; empty for `lib.rs` and `main.rs`, which hold the house together.
fn module_of(path: &Path) -> Vec<String> {
    let path = path.strip_prefix("src").unwrap().with_extension("");
    let mut module: Vec<String> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    let alone = module.len() == 1;
    if module.last().is_some_and(|last| last == "mod" || (alone && matches!(last.as_str(), "lib" | "main"))) {
        module.pop();
    }
    module
}

struct RoomUse {
    room: String,
    line: usize,
}

/// Every room that `code`, the body of `module`, names by a path.
fn rooms_used(code: &str, module: &[String]) -> Vec<RoomUse> {
    let file = syn::parse_file(code).unwrap();
    let mut finder = RoomFinder { module: module.to_vec(), found: Vec::new() };
    finder.visit_file(&file);
    finder.found
}

struct RoomFinder {
    module: Vec<String>,
    found: Vec<RoomUse>,
}

impl RoomFinder {
    /// Records the room that an absolute or upward path leads to; other paths stay where they are.
    fn record(&mut self, path: &[String], line: usize) {
        let mut at = self.module.clone();
        let mut rest = path;
        match path.first().map(String::as_str) {
            Some("crate") => (at, rest) = (Vec::new(), &path[1..]),
            Some("super" | "self") => {
                while let Some(step) = rest.first().filter(|step| matches!(step.as_str(), "super" | "self")) {
                    if step == "super" {
                        at.pop();
                    }
                    rest = &rest[1..];
                }
            }
            _ => return,
        }
        if let Some(room) = at.first().or(rest.first()) {
            self.found.push(RoomUse { room: room.clone(), line });
        }
    }

    fn walk_use(&mut self, tree: &syn::UseTree, before: &[String]) {
        let line = tree.span().start().line;
        let with = |name: &dyn ToString| [before, &[name.to_string()]].concat();
        match tree {
            syn::UseTree::Path(path) => self.walk_use(&path.tree, &with(&path.ident)),
            syn::UseTree::Group(group) => group.items.iter().for_each(|item| self.walk_use(item, before)),
            syn::UseTree::Name(name) => self.record(&with(&name.ident), line),
            syn::UseTree::Rename(rename) => self.record(&with(&rename.ident), line),
            syn::UseTree::Glob(_) => self.record(&with(&"*"), line),
        }
    }

    /// Macros are not parsed: look for `crate :: room` and `super :: …` in their tokens.
    fn walk_tokens(&mut self, tokens: TokenStream) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        for (index, token) in tokens.iter().enumerate() {
            match token {
                TokenTree::Group(group) => self.walk_tokens(group.stream()),
                TokenTree::Ident(ident) if ident == "crate" || ident == "super" => {
                    let mut path = vec![ident.to_string()];
                    let mut rest = tokens[index + 1..].iter();
                    while let (Some(TokenTree::Punct(a)), Some(TokenTree::Punct(b)), Some(TokenTree::Ident(next))) =
                        (rest.next(), rest.next(), rest.next())
                        && (a.as_char(), b.as_char()) == (':', ':')
                    {
                        path.push(next.to_string());
                    }
                    self.record(&path, ident.span().start().line);
                }
                _ => {}
            }
        }
    }
}

impl<'ast> Visit<'ast> for RoomFinder {
    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.walk_use(&item.tree, &[]);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        self.module.push(item.ident.to_string());
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    // `pub(crate)` and `pub(super)` name no room.
    fn visit_vis_restricted(&mut self, _: &'ast syn::VisRestricted) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        self.record(&segments, path.span().start().line);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.walk_tokens(item.tokens.clone());
        visit::visit_macro(self, item);
    }
}

/// Names and line counts of the functions that are too long, tests left out.
fn long_functions(code: &str) -> Vec<(String, usize)> {
    let file = syn::parse_file(code).unwrap();
    let mut finder = LongFunctions(Vec::new());
    finder.visit_file(&file);
    finder.0
}

struct LongFunctions(Vec<(String, usize)>);

impl LongFunctions {
    fn measure(&mut self, name: &syn::Ident, block: &syn::Block) {
        let span = block.span();
        let lines = span.end().line - span.start().line + 1;
        if lines > MAX_FUNCTION_LINES {
            self.0.push((name.to_string(), lines));
        }
    }
}

impl<'ast> Visit<'ast> for LongFunctions {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let is_test = item.attrs.iter().any(|attribute| {
            attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
        });
        if !is_test {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_item_fn(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        self.measure(&item.sig.ident, &item.block);
        visit::visit_impl_item_fn(self, item);
    }

    fn visit_trait_item_fn(&mut self, item: &'ast syn::TraitItemFn) {
        if let Some(block) = &item.default {
            self.measure(&item.sig.ident, block);
        }
        visit::visit_trait_item_fn(self, item);
    }
}

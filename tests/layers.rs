//! Imports point inwards only, and no two files import each other.
//!
//! Reads every file below `src`, collects the paths that its production code names, and compares them
//! with [`ROOMS`]: the folders of the crate from the innermost outwards, each with the folders that it
//! may use. Code compiled only for tests does not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// Each room with the rooms that it may use. A room stands below all that it uses. `a::b` is a room of
/// its own inside `a`.
const ROOMS: &[(&str, &[&str])] = &[
    // Pure: no I/O, no clock.
    ("model", &[]),
    ("address", &["model"]),
    ("imapd_conf", &["model", "address"]),
    ("cyrusdb", &["model"]),
    ("mupdate", &["model", "cyrusdb"]),
    ("wire", &["model"]),
    ("lmtp", &["model", "mupdate"]),
    ("routing", &["model", "address", "mupdate", "wire"]),
    // System: files, locks, sockets, time.
    ("os", &["model"]),
    ("replica", &["model", "mupdate", "os"]),
    ("lists", &["model", "cyrusdb", "replica", "os"]),
    // Surface: what people run or load.
    ("config", &["model", "address", "imapd_conf", "mupdate", "wire", "routing", "os"]),
    ("resolver", &["model", "routing", "os", "replica", "lists", "config"]),
    ("master", &["model", "mupdate", "routing", "os", "replica", "lists", "config", "resolver"]),
    ("relay", &["model", "mupdate", "lmtp", "config", "master"]),
    ("doctor::judge", &["model", "mupdate", "lmtp", "wire", "routing"]),
    (
        "doctor::probe",
        &[
            "model",
            "address",
            "mupdate",
            "lmtp",
            "wire",
            "routing",
            "os",
            "replica",
            "lists",
            "config",
            "resolver",
            "master",
            "relay",
            "doctor::judge",
        ],
    ),
    ("doctor", &["doctor::judge", "doctor::probe"]),
    ("server", &["model", "wire", "routing", "os", "replica", "lists", "resolver", "master"]),
    (
        "capi",
        &["model", "address", "wire", "routing", "os", "replica", "lists", "config", "resolver"],
    ),
    (
        "cli",
        &[
            "model",
            "address",
            "mupdate",
            "wire",
            "lmtp",
            "routing",
            "os",
            "replica",
            "lists",
            "config",
            "resolver",
            "master",
            "relay",
            "doctor::judge",
            "doctor::probe",
            "server",
        ],
    ),
];

/// A module by its path in the crate, without `crate`.
type Module = Vec<String>;

/// The crate: each module with its file, and what its production code names.
struct Source {
    files: BTreeMap<Module, PathBuf>,
    uses: BTreeMap<Module, BTreeSet<Module>>,
}

impl Source {
    fn read() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut source = Self { files: BTreeMap::new(), uses: BTreeMap::new() };
        let mut parsed = BTreeMap::new();
        source.walk(&root.join("lib.rs"), &Vec::new(), &mut parsed);
        for (module, file) in &parsed {
            let mut paths = Paths { module: module.clone(), named: BTreeSet::new() };
            paths.visit_file(file);
            let named = paths.named.iter().map(|path| source.module_of(path));
            let named = named.filter(|named| named != module).collect();
            source.uses.insert(module.clone(), named);
        }
        source
    }

    /// Reads a module's file and those of the modules that it declares, but for tests.
    fn walk(&mut self, path: &Path, module: &Module, parsed: &mut BTreeMap<Module, syn::File>) {
        let text = fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let file = syn::parse_file(&text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let beside = match path.file_name().and_then(|name| name.to_str()) {
            Some("lib.rs" | "mod.rs") => path.with_file_name(""),
            _ => path.with_extension(""),
        };
        for item in &file.items {
            if let syn::Item::Mod(declared) = item
                && declared.content.is_none()
                && !is_for_tests(&declared.attrs)
            {
                let name = declared.ident.to_string();
                let alone = beside.join(format!("{name}.rs"));
                let folder = beside.join(&name).join("mod.rs");
                let path = if alone.exists() { alone } else { folder };
                let module = module.iter().cloned().chain([name]).collect();
                self.walk(&path, &module, parsed);
            }
        }
        self.files.insert(module.clone(), path.to_owned());
        parsed.insert(module.clone(), file);
    }

    /// The module that a path leads into.
    fn module_of(&self, path: &[String]) -> Module {
        let longest = (0..=path.len()).rev().find(|end| self.files.contains_key(&path[..*end]));
        path[..longest.unwrap_or(0)].to_vec()
    }

    fn file(&self, module: &Module) -> String {
        self.files[module].strip_prefix(env!("CARGO_MANIFEST_DIR")).map_or_else(
            |_| self.files[module].display().to_string(),
            |path| path.display().to_string(),
        )
    }
}

/// Whether an item is compiled for tests only.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let syn::Meta::List(list) = &attribute.meta else { return false };
        list.path.is_ident("cfg")
            && list.tokens.to_string().split(|c: char| !c.is_alphanumeric()).any(|w| w == "test")
    })
}

/// Collects the paths of the crate that a file names.
struct Paths {
    module: Module,
    named: BTreeSet<Module>,
}

impl Paths {
    /// Takes a path, if it is one of this crate.
    fn take(&mut self, segments: &[String]) {
        let Some(first) = segments.first() else { return };
        let (mut base, mut rest) = match first.as_str() {
            "crate" => (Vec::new(), &segments[1..]),
            "self" => (self.module.clone(), &segments[1..]),
            "super" => (self.module.clone(), segments),
            _ => return,
        };
        while let Some("super") = rest.first().map(String::as_str) {
            base.pop();
            rest = &rest[1..];
        }
        base.extend(rest.iter().cloned());
        self.named.insert(base);
    }

    fn tree(&mut self, before: &[String], tree: &syn::UseTree) {
        let with = |ident: &syn::Ident| {
            let mut path = before.to_vec();
            if ident != "self" || path.is_empty() {
                path.push(ident.to_string());
            }
            path
        };
        match tree {
            syn::UseTree::Path(path) => self.tree(&with(&path.ident), &path.tree),
            syn::UseTree::Name(name) => self.take(&with(&name.ident)),
            syn::UseTree::Rename(name) => self.take(&with(&name.ident)),
            syn::UseTree::Glob(_) => self.take(before),
            syn::UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.tree(before, tree));
            }
        }
    }
}

impl<'ast> Visit<'ast> for Paths {
    fn visit_item(&mut self, item: &'ast syn::Item) {
        let attributes = match item {
            syn::Item::Mod(item) => &item.attrs,
            syn::Item::Fn(item) => &item.attrs,
            syn::Item::Impl(item) => &item.attrs,
            syn::Item::Use(item) => &item.attrs,
            _ => &Vec::new(),
        };
        if is_for_tests(attributes) {
            return;
        }
        if let syn::Item::Mod(syn::ItemMod { ident, content: Some(_), .. }) = item {
            self.module.push(ident.to_string());
            visit::visit_item(self, item);
            self.module.pop();
            return;
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item_fn(&mut self, item: &'ast syn::ImplItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_impl_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.tree(&[], &item.tree);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let segments: Vec<String> = path.segments.iter().map(|s| s.ident.to_string()).collect();
        self.take(&segments);
        visit::visit_path(self, path);
    }
}

/// The room of a module: its first segment, or its first two if the table has them.
fn room_of(module: &Module, rooms: &BTreeMap<&str, &[&str]>) -> Option<String> {
    let inner = module.get(..2).map(|path| path.join("::"));
    inner.filter(|inner| rooms.contains_key(inner.as_str())).or_else(|| module.first().cloned())
}

#[test]
fn imports_point_inwards() {
    let source = Source::read();
    let rooms: BTreeMap<&str, &[&str]> = ROOMS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (module, uses) in &source.uses {
        let Some(room) = room_of(module, &rooms) else { continue };
        let Some(allowed) = rooms.get(room.as_str()) else {
            wrong.push(format!("{}: a room that is not in the table", source.file(module)));
            continue;
        };
        for used in uses.iter().filter_map(|used| room_of(used, &rooms)).collect::<BTreeSet<_>>() {
            if used != room && !allowed.contains(&used.as_str()) {
                wrong.push(format!("{}: {room} must not use {used}", source.file(module)));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn rooms_stand_in_the_order_of_their_imports() {
    for (nth, (room, uses)) in ROOMS.iter().enumerate() {
        for used in *uses {
            let place = ROOMS.iter().position(|(name, _)| name == used);
            assert!(place.is_some_and(|place| place < nth), "{used} must stand before {room}");
        }
    }
}

#[test]
fn no_file_imports_one_that_imports_it() {
    let source = Source::read();
    // A folder's mod.rs and the files in it belong together.
    let family = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let next = |module: &Module| -> Vec<Module> {
        let uses = source.uses.get(module).into_iter().flatten();
        uses.filter(|used| !used.is_empty() && !family(module, used)).cloned().collect()
    };
    let mut circles = BTreeSet::new();
    for start in source.uses.keys().filter(|module| !module.is_empty()) {
        // All modules that can be reached from here, each with its predecessor on the way.
        let mut ways: BTreeMap<Module, Module> = BTreeMap::new();
        let mut open = vec![start.clone()];
        while let Some(at) = open.pop() {
            for to in next(&at) {
                if to == *start {
                    let mut circle = vec![source.file(start)];
                    let mut step = &at;
                    while step != start {
                        circle.push(source.file(step));
                        step = &ways[step];
                    }
                    circle.sort();
                    circles.insert(circle.join(", "));
                } else if !ways.contains_key(&to) {
                    ways.insert(to.clone(), at.clone());
                    open.push(to);
                }
            }
        }
    }
    assert!(circles.is_empty(), "\n{}", circles.into_iter().collect::<Vec<_>>().join("\n"));
}

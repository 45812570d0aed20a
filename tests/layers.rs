//! Holds the first three invariants of `docs/architecture.md` by reading the sources and the lock
//! file: dependencies point one way, a foreign crate has one home, the library is a guest in its
//! process.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use limen_support::project_dir;

/// The layers of limen-core: each may name itself, those listed, and the base.
const LAYERS: [(&str, &[&str]); 8] = [
    ("hypervisor", &[]),
    ("store", &[]),
    ("authz", &[]),
    ("metrics", &[]),
    ("backup", &["hypervisor", "store"]),
    ("service", &["hypervisor", "store", "authz", "metrics"]),
    ("remote", &["hypervisor", "service"]),
    ("testing", &["hypervisor", "store", "authz", "metrics", "service"]),
];

/// What every layer may name. It names nothing but itself.
const BASE: [&str; 7] = ["model", "error", "context", "secret", "clock", "hex", "address"];

/// Back ends of one trait: none may name another.
const BACK_ENDS: [(&str, &[&str]); 2] = [("hypervisor", &["sim", "libvirt"]), ("store", &["sqlite", "postgres"])];

/// Foreign crates and the one place of each, below the root of the project.
const HOMES: [(&str, &[&str]); 10] = [
    ("virt", &["limen-core/src/hypervisor/libvirt"]),
    ("virt_sys", &["limen-core/src/hypervisor/libvirt"]),
    ("sqlx", &["limen-core/src/store"]),
    ("sysinfo", &["limen-core/src/metrics", "limen-agent/src/sample.rs"]),
    ("poem", &["limen-http/src"]),
    ("poem_openapi", &["limen-http/src"]),
    ("jsonwebtoken", &["limen-http/src"]),
    ("ipnet", &["limen-http/src"]),
    ("pyo3", &["limen-py/src"]),
    ("tokio_websockets", &["limen-core/src/remote/console.rs", "limen-http/src/relay.rs"]),
];

/// What the library leaves to the program: the end of a path, or a macro with its `!`.
const NOT_IN_CORE: [&str; 17] = [
    "env::var",
    "env::var_os",
    "env::vars",
    "env::vars_os",
    "env::args",
    "process::exit",
    "process::abort",
    "TcpListener",
    "UnixListener",
    "tokio::main",
    "runtime::Builder",
    "Runtime::new",
    "set_global_default",
    "print!",
    "println!",
    "eprint!",
    "eprintln!",
];

/// Blanks out comments, strings and characters, and leaves line breaks where they are.
fn code_of(source: &str) -> String {
    let chars: Vec<char> = source.chars().collect();
    let starts = |at: usize, text: &str| text.chars().enumerate().all(|(n, c)| chars.get(at + n) == Some(&c));
    let is_word = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let mut code = String::with_capacity(source.len());
    let mut at = 0;
    while at < chars.len() {
        let begin = at;
        if starts(at, "//") {
            while at < chars.len() && chars[at] != '\n' {
                at += 1;
            }
        } else if starts(at, "/*") {
            let mut depth = 0;
            loop {
                if starts(at, "/*") {
                    (depth, at) = (depth + 1, at + 2);
                } else if starts(at, "*/") {
                    (depth, at) = (depth - 1, at + 2);
                } else {
                    at += 1;
                }
                if depth == 0 || at >= chars.len() {
                    break;
                }
            }
        } else if chars[at] == 'r' && (at == 0 || !is_word(at - 1)) && (starts(at, "r\"") || starts(at, "r#")) {
            let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
            if chars.get(at + 1 + hashes) == Some(&'"') {
                let end = format!("\"{}", "#".repeat(hashes));
                at += 2 + hashes;
                while at < chars.len() && !starts(at, &end) {
                    at += 1;
                }
                at += end.len();
            } else {
                at += 1;
                code.push('r');
                continue;
            }
        } else if chars[at] == '"' {
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
        } else if chars[at] == '\'' && (chars.get(at + 1) == Some(&'\\') || chars.get(at + 2) == Some(&'\'')) {
            at += 2;
            while at < chars.len() && chars[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else {
            code.push(chars[at]);
            at += 1;
            continue;
        }
        code.extend(chars[begin..at.min(chars.len())].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
    }
    code
}

/// The code without its unit tests, which by convention come last.
fn without_tests(code: &str) -> &str {
    code.split("#[cfg(test)]\nmod tests {").next().unwrap_or(code)
}

/// A word, `::`, or any other character, with the line that it is on.
fn tokens(code: &str) -> Vec<(String, usize)> {
    let mut tokens: Vec<(String, usize)> = Vec::new();
    let mut line = 1;
    let mut word = String::new();
    let mut chars = code.chars().peekable();
    while let Some(c) = chars.next() {
        if c.is_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        if !word.is_empty() {
            tokens.push((std::mem::take(&mut word), line));
        }
        if c == '\n' {
            line += 1;
        } else if c == ':' && chars.peek() == Some(&':') {
            chars.next();
            tokens.push(("::".to_owned(), line));
        } else if !c.is_whitespace() {
            tokens.push((c.to_string(), line));
        }
    }
    if !word.is_empty() {
        tokens.push((word, line));
    }
    tokens
}

fn is_word(token: &str) -> bool {
    token.chars().next().is_some_and(|c| c.is_alphanumeric() || c == '_')
}

/// A path as it stands in the code, its groups taken apart.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: Vec<String>,
    line: usize,
    /// A macro call.
    bang: bool,
}

/// Reads the path at `at`, a word, after `prefix`, and all that a group behind it holds; answers
/// where it ends.
fn read_path(tokens: &[(String, usize)], mut at: usize, prefix: &[String], found: &mut Vec<Named>) -> usize {
    let token = |at: usize| tokens.get(at).map_or("", |(text, _)| text.as_str());
    let line = tokens[at].1;
    let mut path = prefix.to_vec();
    while is_word(token(at)) {
        path.push(token(at).to_owned());
        at += 1;
        if token(at) != "::" {
            break;
        }
        at += 1;
        if token(at) == "{" {
            while at < tokens.len() && token(at) != "}" {
                at = if is_word(token(at)) { read_path(tokens, at, &path, found) } else { at + 1 };
            }
            return at + 1;
        }
    }
    found.push(Named { path, line, bang: token(at) == "!" });
    at
}

/// Every path and every word in the code.
fn named(code: &str) -> Vec<Named> {
    let tokens = tokens(code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if is_word(&tokens[at].0) { read_path(&tokens, at, &[], &mut found) } else { at + 1 };
    }
    found
}

/// The module that a file of limen-core is: `hypervisor/sim/mod.rs` is `[hypervisor, sim]`.
fn module_of(below_src: &Path) -> Vec<String> {
    let mut module: Vec<String> =
        below_src.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// A path of limen-core from the crate's root: none when it is somebody else's.
fn from_root(module: &[String], path: &[String], exports: &BTreeMap<String, String>) -> Option<Vec<String>> {
    let mut place: Vec<String> = match path.first()?.as_str() {
        "crate" => Vec::new(),
        "self" | "super" => module.to_vec(),
        _ => return None,
    };
    for part in path {
        match part.as_str() {
            "crate" | "self" => {}
            "super" => drop(place.pop()),
            name => place.push(name.to_owned()),
        }
    }
    // What lib.rs exports stands for the module that has it.
    if let Some(home) = place.first().and_then(|first| exports.get(first)) {
        place.insert(0, home.clone());
    }
    Some(place)
}

/// Which module of limen-core each name that `lib.rs` exports is from.
fn exports(lib: &str) -> BTreeMap<String, String> {
    let mut exports = BTreeMap::new();
    for line in code_of(lib).split(';').map(str::trim) {
        let Some((_, uses)) = line.rsplit_once("pub use ") else { continue };
        for Named { path, .. } in named(uses) {
            if let (Some(module), Some(name)) = (path.first(), path.last()) {
                exports.insert(name.clone(), module.clone());
            }
        }
    }
    exports
}

/// What is wrong with a file; `file` is its path below the project's root.
fn wrong_in(file: &Path, source: &str, exports: &BTreeMap<String, String>) -> Vec<String> {
    let code = code_of(source);
    let code = without_tests(&code);
    let core = file.strip_prefix("limen-core/src").ok();
    let module = core.map(module_of).unwrap_or_default();
    let is_tests = file.file_name().is_some_and(|name| name == "tests.rs");
    let mut wrong = Vec::new();
    for Named { path, line, bang } in named(code) {
        let place = format!("{}:{line}: {}", file.display(), path.join("::"));
        for (name, homes) in HOMES {
            if path[0] == name && !homes.iter().any(|home| file.starts_with(home)) && (path.len() > 1 || !bang) {
                let used = path.len() > 1 || code.lines().nth(line - 1).is_some_and(|line| line.contains("use "));
                if used {
                    wrong.push(format!("{place}: {name} belongs under {}", homes.join(", ")));
                }
            }
        }
        if core.is_none() {
            continue;
        }
        let text = path.join("::") + if bang { "!" } else { "" };
        let ends = |tail: &&str| text == **tail || text.ends_with(&format!("::{tail}"));
        if let Some(tail) = NOT_IN_CORE.iter().find(|tail| ends(tail)).filter(|_| !is_tests) {
            wrong.push(format!("{place}: {tail} is the program's, not the library's"));
        }
        let Some(target) = from_root(&module, &path, exports) else { continue };
        let (Some(from), Some(to)) = (module.first(), target.first()) else { continue };
        let is_layer = |name: &String| LAYERS.iter().any(|(layer, _)| layer == name);
        if is_layer(to) && to != from {
            let below = LAYERS.iter().find(|(layer, _)| layer == from).map_or(&[][..], |(_, below)| below);
            if !below.contains(&to.as_str()) {
                wrong.push(format!("{place}: {from} may not name {to}"));
            }
        } else if !is_layer(to) && !BASE.contains(&to.as_str()) && to != from {
            wrong.push(format!("{place}: {to} is no layer that tests/layers.rs knows"));
        }
        if let (Some((_, ends)), Some(own), Some(other)) =
            (BACK_ENDS.iter().find(|(layer, _)| layer == from && layer == to), module.get(1), target.get(1))
            && own != other
            && ends.contains(&own.as_str())
            && ends.contains(&other.as_str())
        {
            wrong.push(format!("{place}: the back end {own} may not name the back end {other}"));
        }
    }
    wrong
}

fn sources_below(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("read a directory") {
        let path = entry.expect("read a directory").path();
        if path.is_dir() {
            sources_below(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn read(path: impl AsRef<Path>) -> String {
    let path = project_dir().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("read {}: {error}", path.display()))
}

#[test]
fn the_sources_keep_to_their_layers() {
    let exports = exports(&read("limen-core/src/lib.rs"));
    for (name, module) in [("Limen", "service"), ("Hypervisor", "hypervisor"), ("Error", "error")] {
        assert_eq!(exports.get(name).map(String::as_str), Some(module), "lib.rs is read wrongly: {exports:?}");
    }
    let mut files = Vec::new();
    for package in ["limen-agent/src", "limen-core/src", "limen-http/src", "limen-py/src"] {
        sources_below(&project_dir().join(package), &mut files);
    }
    assert!(files.len() > 50, "only {} files were found", files.len());
    let wrong: Vec<String> = files
        .iter()
        .flat_map(|path| {
            let file = path.strip_prefix(project_dir()).expect("below the project");
            wrong_in(file, &fs::read_to_string(path).expect("read a source"), &exports)
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_line_that_breaks_a_rule_is_found() {
    let exports = exports(&read("limen-core/src/lib.rs"));
    let wrong = |file: &str, source: &str| wrong_in(Path::new(file), source, &exports).len();
    let bad = [
        ("hypervisor/sim/mod.rs", "use crate::service::Limen;"),
        ("hypervisor/sim/mod.rs", "use crate::{error::Error, Limen};"),
        ("hypervisor/sim/mod.rs", "fn f(limen: &crate::Limen) {}"),
        ("hypervisor/sim/mod.rs", "use super::libvirt::LibvirtHypervisor;"),
        ("hypervisor/libvirt/xml/mod.rs", "use super::super::sim::SimClock;"),
        ("hypervisor/libvirt/vm.rs", "use crate::hypervisor::{HostVm, sim::{self, SimClock}};"),
        ("store/sqlite.rs", "use super::postgres::PostgresStore;"),
        ("store/mod.rs", "use crate::{\n    model::Vm,\n    hypervisor::{HostVm, Mark},\n};"),
        ("authz/mod.rs", "use crate::store::Store;"),
        ("model/vm.rs", "use crate::hypervisor::Hypervisor;"),
        ("error.rs", "use crate::Hypervisor;"),
        ("service/mod.rs", "use crate::testing::hypervisor;"),
        ("service/mod.rs", "use crate::elsewhere::Thing;"),
        ("service/vms.rs", "use virt::connect::Connect;"),
        ("service/vms.rs", "let error: sqlx::Error;"),
        ("hypervisor/mod.rs", "use virt_sys as sys;"),
        ("store/mod.rs", "fn f() { sysinfo::System::new(); }"),
        ("service/vms.rs", "use poem::Request;"),
        ("service/vms.rs", "let home = std::env::var(\"HOME\");"),
        ("service/vms.rs", "use std::env::var_os;"),
        ("metrics/local.rs", "std::process::exit(1);"),
        ("service/mod.rs", "println!(\"{x}\");"),
        ("service/mod.rs", "let l = tokio::net::TcpListener::bind(a).await?;\nuse std::net::{IpAddr, TcpListener};"),
        ("service/mod.rs", "let s = '\"'; println!(\"'\");"),
    ];
    for (file, source) in bad {
        assert!(wrong(&format!("limen-core/src/{file}"), source) > 0, "nothing wrong was found in {file}: {source}");
    }
    let good = [
        ("hypervisor/sim/mod.rs", "/// See [`Limen`](crate::Limen).\nuse crate::model::VmId; // crate::service"),
        ("hypervisor/sim/state.rs", "use super::clock::SimClock; use crate::hypervisor::HostVm;"),
        ("hypervisor/sim/mod.rs", "let text = \"use crate::service::Limen; println!\";"),
        ("hypervisor/sim/mod.rs", "let text = r#\"\"use crate::service::Limen\"#; let c = '\"'; let d = b'\\'';"),
        ("hypervisor/libvirt/vm.rs", "use virt::domain::Domain; use virt_sys as sys;"),
        ("store/sql/driver.rs", "use sqlx::Row; use super::super::sqlite::watch;"),
        ("service/vms.rs", "use crate::{Error, hypervisor::Mark, model::{Vm, VmId}};"),
        ("service/vms.rs", "fn f<'a>(x: &'a str) -> &'a str { x }\n#[cfg(test)]\nmod tests {\n println!();\n}"),
        ("testing/mod.rs", "use crate::service::Limen;"),
        ("model/vm.rs", "let virt = 1; let other = virt + 1;"),
    ];
    for (file, source) in good {
        let found = wrong_in(Path::new(&format!("limen-core/src/{file}")), source, &exports);
        assert!(found.is_empty(), "{found:?}");
    }
    assert_eq!(wrong("limen-http/src/main.rs", "use poem::Request; fn main() { println!(); }"), 0);
    assert_eq!(wrong("limen-http/src/main.rs", "use sqlx::Row;"), 1);
}

/// The direct dependencies of limen-core, and whether each is optional.
fn direct_dependencies(manifest: &str) -> BTreeMap<String, bool> {
    let section = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = section.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| {
            let name = line.split([' ', '.', '=']).next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
            Some((name.to_owned(), line.contains("optional = true")))
        })
        .collect()
}

/// Everything that the packages in `roots` come with, by the lock file.
fn closure(lock: &str, roots: &[String]) -> BTreeSet<String> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for package in lock.split("[[package]]\n").skip(1) {
        let mut name = "";
        for line in package.lines() {
            if let Some(text) = line.strip_prefix("name = ") {
                name = text.trim_matches('"');
            } else if let Some(text) = line.strip_prefix(" \"") {
                let dependency = text.split(['"', ' ']).next().unwrap_or_default();
                needs.entry(name).or_default().push(dependency);
            }
        }
    }
    let mut all: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<&str> = roots.iter().map(String::as_str).collect();
    while let Some(name) = next.pop() {
        if all.insert(name.to_owned()) {
            next.extend(needs.get(name).into_iter().flatten().copied());
        }
    }
    all
}

#[test]
fn a_back_end_is_a_feature_and_the_rest_needs_none_of_them() {
    let manifest = read("limen-core/Cargo.toml");
    let lock = read("Cargo.lock");
    let direct = direct_dependencies(&manifest);
    for name in ["virt", "virt-sys", "sqlx", "sysinfo", "reqwest"] {
        assert_eq!(direct.get(name), Some(&true), "{name} must be optional");
    }
    assert!(manifest.contains("\ndefault = [\"sqlite\"]\n"), "the default features are sqlite alone");

    let always: Vec<String> = direct.iter().filter(|(_, optional)| !**optional).map(|(name, _)| name.clone()).collect();
    let needed = closure(&lock, &always);
    assert!(needed.contains("tokio") && needed.contains("serde_core"), "the lock file is read wrongly: {needed:?}");
    let foreign = [
        "virt",
        "virt-sys",
        "sqlx",
        "libsqlite3-sys",
        "sysinfo",
        "reqwest",
        "hyper",
        "poem",
        "jsonwebtoken",
        "limen-http",
    ];
    for name in foreign {
        assert!(!needed.contains(name), "limen-core without features comes with {name}");
    }
    // HTTP comes with the one feature that speaks it.
    let all: Vec<String> = direct.into_keys().filter(|name| name != "reqwest").collect();
    let with_all = closure(&lock, &all);
    assert!(with_all.contains("virt-sys") && with_all.contains("sqlx-postgres"));
    for name in ["poem", "jsonwebtoken", "hyper", "limen-http"] {
        assert!(!with_all.contains(name), "limen-core comes with {name}");
    }
}

//! The rules of the house that a compiler does not know: floors, sizes, headers.

use std::fs;
use std::path::{Path, PathBuf};

/// Modules by floor; one may use only what is below, and up to floor 5 what is on its own.
const FLOORS: &[&[&str]] = &[
    &["error", "dtype", "layout"],
    &["wgsl", "gpu"],
    &["array", "formula", "prim", "op", "memory"],
    &["reference", "trial", "ops", "cpu"],
    &["plan"],
    &["io", "nn", "kv_quantization"],
    &["models"],
    &["generate"],
    &["serve", "bench"],
    &["main", "lib", "cli"],
];

fn sources(folder: &str, extension: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(folder)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == extension) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|names| names.contains(&module))
}

/// The top-level module that a file under `src/` belongs to.
fn module(path: &Path) -> String {
    let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
    let first = below.components().next().unwrap().as_os_str().to_string_lossy();
    first.trim_end_matches(".rs").to_string()
}

/// Upward imports in a source text of `module`.
fn upward(module: &str, text: &str) -> Vec<String> {
    let own = floor(module).unwrap_or_else(|| panic!("module {module} has no floor"));
    text.split("crate::")
        .skip(1)
        .filter_map(|rest| {
            let name: String = rest.chars().take_while(|c| c.is_ascii_lowercase() || *c == '_').collect();
            floor(&name).filter(|&f| f > own || (f == own && name != module && own >= 6)).map(|_| name)
        })
        .collect()
}

#[test]
fn modules_import_only_from_lower_floors() {
    for path in sources("src", "rs") {
        let (module, text) = (module(&path), fs::read_to_string(&path).unwrap());
        let is_test = path.file_stem().is_some_and(|s| s.to_string_lossy().contains("tests"));
        if module != "lib" && module != "main" && !is_test {
            let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
            let code: String = code.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
            let found = upward(&module, &code);
            assert!(found.is_empty(), "{}: imports {found:?} from a floor above", path.display());
        }
    }
}

#[test]
fn an_upward_import_is_seen() {
    assert_eq!(upward("gpu", "use crate::error::Error; use crate::plan::Program;"), ["plan"]);
    assert!(upward("plan", "use crate::gpu::Gpu;").is_empty());
}

#[test]
fn files_are_short_and_say_what_they_are() {
    for path in sources("src", "rs") {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("//! "), "{}: no `//!` header", path.display());
        assert!(text.lines().count() <= 500, "{}: {} lines", path.display(), text.lines().count());
    }
    for path in sources("wgsl", "wgsl") {
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("// "), "{}: does not open with its formula", path.display());
        assert!(text.lines().count() <= 250, "{}: {} lines", path.display(), text.lines().count());
    }
}

#[test]
fn nothing_is_left_for_later() {
    for path in sources("src", "rs").iter().chain(&sources("wgsl", "wgsl")).chain(&sources("examples", "rs"))
    {
        let text = fs::read_to_string(path).unwrap();
        for word in ["todo!(", "unimplemented!(", "TODO", "FIXME", "XXX", "dbg!("] {
            assert!(!text.contains(word), "{} says {word}", path.display());
        }
    }
}

#[test]
fn unsafe_lives_where_the_design_allows_it() {
    for path in sources("src", "rs") {
        let text = fs::read_to_string(&path).unwrap();
        let code: String = text.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        let below = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("src")).unwrap();
        let allowed =
            ["cpu", "gpu"].contains(&module(&path).as_str()) || below == Path::new("io/safetensors.rs");
        assert!(allowed || !code.contains("unsafe {"), "{}: unsafe", path.display());
    }
}

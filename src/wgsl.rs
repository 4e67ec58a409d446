//! Shader files and how they become one text.
//!
//! The order of declarations at WGSL module scope is free, so *linking is concatenation*: a kernel file, the
//! parts it calls and, where a plan fuses elementwise work, one generated function. Two things need
//! care. Directives (`enable`, `requires`, `diagnostic`) may stand only at the top, so [`link`] lifts
//! them there, each once. And an error should name the file a person can open, so a [`Source`] knows
//! for each of its lines which file and line it came from.

use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// One shader file, embedded at compile time by `wgsl!`.
#[derive(Debug)]
pub struct File {
    /// Path below the `wgsl/` folder.
    pub name: &'static str,
    /// What the file says.
    pub text: &'static str,
}

/// `wgsl!("rms_norm.wgsl")` is that file of the `wgsl/` folder as a [`File`].
macro_rules! wgsl {
    ($name:literal) => {
        $crate::wgsl::File {
            name: $name,
            text: include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/wgsl/", $name)),
        }
    };
}
pub(crate) use wgsl;

/// What generated lines are called in messages.
const GENERATED: &str = "generated";

/// A linked shader. Cheap to clone; two with equal text have equal keys.
#[derive(Clone)]
pub struct Source(Arc<Linked>);

struct Linked {
    text: String,
    key: u64,
    pieces: Vec<Piece>,
    for_browsers: Vec<&'static str>,
}

/// Directives that browsers demand; naga 30 refuses the one and complains of the other.
const FOR_BROWSERS: [&str; 2] = ["enable subgroups;", "diagnostic(off, subgroup_uniformity);"];

/// A run of lines that comes from one place.
struct Piece {
    /// Its first line in the linked text, from 0.
    first: u32,
    name: &'static str,
    /// The same line in the file, from 1.
    line: u32,
}

/// Joins `files` (a file named twice counts once) and the `generated` code into one shader.
///
/// What only browsers understand is left out: [`Source::for_browsers`].
pub fn link(files: &[&File], generated: &str) -> Source {
    let mut linked = Linked { text: String::new(), key: 0, pieces: Vec::new(), for_browsers: Vec::new() };
    let mut parts: Vec<(&'static str, &str)> = Vec::new();
    for file in files {
        if !parts.iter().any(|(name, _)| *name == file.name) {
            parts.push((file.name, file.text));
        }
    }
    parts.push((GENERATED, generated));

    let mut lines = 0;
    let mut seen: Vec<&str> = Vec::new();
    for &(name, text) in &parts {
        for (at, line) in text.lines().enumerate().filter(|(_, line)| is_directive(line)) {
            let directive = line.trim();
            if seen.contains(&directive) {
                continue;
            }
            seen.push(directive);
            if let Some(known) = FOR_BROWSERS.into_iter().find(|known| *known == directive) {
                linked.for_browsers.push(known);
            } else {
                linked.push(lines, name, at as u32 + 1, directive);
                lines += 1;
            }
        }
    }
    for &(name, text) in &parts {
        for (at, line) in text.lines().enumerate() {
            let line = if is_directive(line) { "" } else { line };
            linked.push(lines, name, at as u32 + 1, line);
            lines += 1;
        }
    }
    let mut hasher = DefaultHasher::new();
    linked.text.hash(&mut hasher);
    linked.key = hasher.finish();
    Source(Arc::new(linked))
}

fn is_directive(line: &str) -> bool {
    let line = line.trim_start();
    ["enable ", "requires ", "diagnostic("].iter().any(|word| line.starts_with(word))
}

impl Linked {
    fn push(&mut self, at: u32, name: &'static str, line: u32, text: &str) {
        let follows = |p: &Piece| p.name == name && line.wrapping_sub(p.line) == at - p.first;
        if !self.pieces.last().is_some_and(follows) {
            self.pieces.push(Piece { first: at, name, line });
        }
        self.text.push_str(text);
        self.text.push('\n');
    }
}

impl Source {
    /// The whole shader.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Directives that a browser wants to read before the text.
    pub fn for_browsers(&self) -> &[&'static str] {
        &self.0.for_browsers
    }

    /// A hash of the text: equal shaders are compiled once.
    pub fn key(&self) -> u64 {
        self.0.key
    }

    /// File and line (both as a person counts, from 1) of a line of [`Source::text`].
    pub fn locate(&self, line: u32) -> (&'static str, u32) {
        let line = line.saturating_sub(1);
        let piece = self.0.pieces.partition_point(|piece| piece.first <= line).checked_sub(1);
        match piece.map(|at| &self.0.pieces[at]) {
            Some(piece) => (piece.name, piece.line + (line - piece.first)),
            None => (GENERATED, 1),
        }
    }

    /// Reads the text; an error names file and line.
    pub fn parse(&self) -> Result<naga::Module, String> {
        naga::front::wgsl::parse_str(self.text()).map_err(|e| {
            let notes = e.labels().map(|(_, note)| note).filter(|note| !note.is_empty());
            let notes: Vec<&str> = notes.collect();
            let message = match notes.is_empty() {
                true => e.message().to_string(),
                false => format!("{} ({})", e.message(), notes.join("; ")),
            };
            self.explain(message, e.location(self.text()).map(|at| at.line_number))
        })
    }

    /// Checks a parsed module against what a target can do; an error names file and line.
    pub fn validate(
        &self,
        module: &naga::Module,
        capabilities: naga::valid::Capabilities,
    ) -> Result<naga::valid::ModuleInfo, String> {
        use naga::valid::{ShaderStages, SubgroupOperationSet, ValidationFlags, Validator};
        Validator::new(ValidationFlags::all(), capabilities)
            .subgroup_stages(ShaderStages::COMPUTE)
            .subgroup_operations(SubgroupOperationSet::all())
            .validate(module)
            .map_err(|e| {
                // The outer sentence only says "entry point main is invalid"; the causes say why.
                let mut message = e.as_inner().to_string();
                let mut cause = std::error::Error::source(e.as_inner());
                while let Some(inner) = cause {
                    message = format!("{message}: {inner}");
                    cause = inner.source();
                }
                // The last span is the innermost: the statement at fault, not its function.
                let span = e.spans().last().map(|(span, _)| span.location(self.text()).line_number);
                self.explain(message, span)
            })
    }

    /// `message`, at the place where a line of the text was written, with that line.
    pub fn explain(&self, message: impl Display, line: Option<u32>) -> String {
        let Some(line) = line else { return message.to_string() };
        let (name, at) = self.locate(line);
        let folder = if name == GENERATED { "" } else { "wgsl/" };
        let excerpt = self.text().lines().nth(line.saturating_sub(1) as usize).unwrap_or("").trim();
        format!("{folder}{name}:{at}: {message}\n    {excerpt}")
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut names: Vec<&str> = self.0.pieces.iter().map(|piece| piece.name).collect();
        names.sort_unstable();
        names.dedup();
        write!(f, "Source({}, {:016x})", names.join(" + "), self.key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KERNEL: File =
        File { name: "kernel.wgsl", text: "// a kernel\nenable f16;\nfn main() {\n    part();\n}\n" };
    const PART: File = File {
        name: "parts/part.wgsl",
        text: "enable f16;\nenable subgroups;\n\nfn part() { let x: f16 = 1.0h; }\n",
    };

    #[test]
    fn directives_go_to_the_top_once() {
        let source = link(&[&KERNEL, &PART, &PART], "fn value() -> f32 { return 1.0; }");
        assert!(source.text().starts_with("enable f16;\n// a kernel\n\nfn main()"));
        assert_eq!(source.text().matches("enable").count(), 1);
        assert_eq!(source.text().matches("fn part").count(), 1);
        source.parse().unwrap();
    }

    #[test]
    fn every_line_knows_its_file() {
        let source = link(&[&KERNEL, &PART], "// one\n// two");
        for (at, line) in source.text().lines().enumerate() {
            let (name, number) = source.locate(at as u32 + 1);
            let text = match name {
                "kernel.wgsl" => KERNEL.text,
                "parts/part.wgsl" => PART.text,
                _ => "// one\n// two",
            };
            let original = text.lines().nth(number as usize - 1).unwrap();
            assert!(line == original || (line.is_empty() && is_directive(original)), "{at}: {line}");
        }
    }

    #[test]
    fn errors_name_file_and_line() {
        let parse = link(&[&KERNEL, &PART], "fn value( { }").parse().unwrap_err();
        assert!(parse.starts_with("generated:1: "), "{parse}");
        assert!(parse.ends_with("fn value( { }"), "{parse}");

        let wrong = File { name: "parts/part.wgsl", text: "\nfn part() -> f32 {\n    return 1u;\n}\n" };
        let source = link(&[&KERNEL, &wrong], "");
        let message =
            source.parse().and_then(|m| source.validate(&m, naga::valid::Capabilities::all()).map(|_| ()));
        let message = message.unwrap_err();
        assert!(message.starts_with("wgsl/parts/part.wgsl:3: "), "{message}");
    }

    #[test]
    fn equal_text_has_an_equal_key() {
        assert_eq!(link(&[&KERNEL], "").key(), link(&[&KERNEL], "").key());
        assert_ne!(link(&[&KERNEL], "").key(), link(&[&KERNEL], "// x").key());
    }
}

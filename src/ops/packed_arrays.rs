//! How kernels see the arrays of a packed cache, whose formats differ: as words or vectors of them, or as tiles of rows.
//! Types of arrays and functions that read and write them are WGSL.

use crate::cpu::Packing;

/// How many words of keys and of values are read at once: several from rows that are whole vectors.
pub(super) fn vectors(
    [keys, values]: [Packing; 2],
    [key_words, value_words]: [usize; 2],
    integers: bool,
) -> [usize; 2] {
    let vector = |words: usize, wanted: usize| if words.is_multiple_of(wanted) { wanted } else { 1 };
    let pairs = |packing: Packing| if packing.bits == 8 { 2 } else { 1 };
    [vector(key_words, if integers { 4 } else { pairs(keys) }), vector(value_words, pairs(values))]
}

/// Functions that read and write words of keys and of values in arrays of such vectors.
pub(super) fn access([keys, values]: [Packing; 2], vectors: [usize; 2], integers: bool) -> String {
    let mut text = String::new();
    for (name, array, bits, n) in
        [("key", "keys", keys.bits, vectors[0]), ("value", "values", values.bits, vectors[1])]
    {
        let word = if n > 1 { format!("{array}[at / {n}u][at % {n}u]") } else { format!("{array}[at]") };
        let head = name.to_uppercase();
        text += &format!(
            "fn {name}_word(at: u32) -> u32 {{ return {word}; }}\n\
             fn set_{name}_code(row: u32, h: u32, w: u32, word: u32) {{\n\
             let at = row * params.{name}_words + h * {head}_HEAD + w;\n{word} = word;\n}}\n\
             fn set_{name}_scales(row: u32, i: u32, word: u32) {{\n\
             let at = row * params.{name}_words + params.kv_heads * {head}_HEAD + i;\n{word} = word;\n}}\n"
        );
        text += &match (name, integers) {
            ("key", true) => key32(bits as usize, n),
            _ => words8(name, array, bits, n),
        };
    }
    text
}

/// Words of lane c's 8 codes of the head whose first word is `at`, for lanes past the head the last. The array is of
/// words or of pairs of them.
fn words8(name: &str, array: &str, bits: u32, vector: usize) -> String {
    let words = match (bits, vector) {
        (8, 2) => format!("return {array}[(at + 2u * c) / 2u];"),
        (8, _) => format!("return vec2<u32>({array}[at + 2u * c], {array}[at + 2u * c + 1u]);"),
        (4, _) => format!("return vec2<u32>({array}[at + c], 0u);"),
        (5, _) => format!(
            "let block = at + 5u * (c / 4u);\nreturn vec2<u32>({array}[block + c % 4u], {array}[block + 4u]);"
        ),
        (3, _) => format!(
            "let block = at + 3u * (c / 4u);\nreturn vec2<u32>({array}[block + c % 4u / 2u], {array}[block + 2u]);"
        ),
        _ => format!("return vec2<u32>({array}[at + c / 2u], 0u);"),
    };
    format!(
        "fn {name}8(at: u32, lane: u32) -> vec2<u32> {{\nlet c = min(lane, params.eights - 1u);\n{words}\n}}\n"
    )
}

/// Words of lane l's 32 codes of the key head whose first word is `at`, for lanes past the head the last.
fn key32(bits: usize, vector: usize) -> String {
    let load = |i: usize| {
        if vector == 4 {
            format!("keys[block / 4u + {i}u]")
        } else {
            let word = |j: usize| format!("keys[block + {}u]", 4 * i + j);
            format!("vec4<u32>({}, {}, {}, {})", word(0), word(1), word(2), word(3))
        }
    };
    let second = if bits == 8 { load(1) } else { "vec4<u32>()".to_owned() };
    format!(
        "struct Words {{ a: vec4<u32>, b: vec4<u32> }}\n\
         fn key32(at: u32, l: u32) -> Words {{\n\
         let block = at + {bits}u * min(l, KEY_HEAD / {bits}u - 1u);\n\
         return Words({}, {second});\n}}\n",
        load(0)
    )
}

/// Keys or values as tiles of 16 rows, which a product of matrices takes at once.
struct Tiles {
    name: &'static str,
    /// In names of types.
    of: &'static str,
    /// What rows of a tile are in, and where in a tile row `row` is.
    rows: (&'static str, &'static str),
    /// Parameters that say which row of a tile is meant, and where that is.
    place: (&'static str, &'static str),
    packing: Packing,
    /// Words that a lane reads together, if not in planes.
    at_once: usize,
}

const KEY_ROWS: &str = "array<array<KeyRow, 8>, 2>";
const VALUE_ROWS: &str = "array<array<array<ValueRow, 4>, 2>, 2>";

impl Tiles {
    fn keys(packing: Packing) -> Self {
        Self {
            name: "key",
            of: "Key",
            rows: (KEY_ROWS, "[row / 8u % 2u][row % 8u]"),
            place: ("half: u32, g: u32", "[half][g]"),
            packing,
            at_once: packing.bits as usize / 2,
        }
    }

    fn values(packing: Packing) -> Self {
        Self {
            name: "value",
            of: "Value",
            rows: (VALUE_ROWS, "[row / 8u % 2u][row / 4u % 2u][row % 4u]"),
            place: ("half: u32, quarter: u32, t: u32", "[half][quarter][t]"),
            packing,
            at_once: if matches!(packing.bits, 4 | 8) { packing.bits as usize / 4 } else { 1 },
        }
    }

    /// The type of a head's codes, and which of them word `w` is.
    fn codes(&self, words: usize, d: usize) -> (String, String) {
        let (n, groups, head) = (self.at_once, self.packing.groups(d), self.packing.head_words(d));
        if !matches!(self.packing.bits, 4 | 8) {
            return (format!("array<u32, {head}>"), "[w]".to_owned());
        }
        let units = head / groups / n;
        let unit = match n {
            1 => "u32".to_owned(),
            _ if words.is_multiple_of(n) => format!("vec{n}<u32>"),
            _ => format!("array<u32, {n}>"),
        };
        let word = if n == 1 { String::new() } else { format!("[w % {n}u]") };
        (
            format!("array<array<{unit}, {units}>, {groups}>"),
            format!("[w / {}u][w / {n}u % {units}u]{word}", units * n),
        )
    }

    /// Types, and functions for words of codes and of scales.
    fn text(&self, kv_heads: usize, d: usize) -> String {
        let Self { name, of, rows: (rows, row), place: (which, place), packing, .. } = self;
        let words = packing.row_words(kv_heads, d);
        let scales = words - kv_heads * packing.head_words(d);
        let (codes, code) = self.codes(words, d);
        format!(
            "struct {of}Row {{ codes: array<{codes}, {kv_heads}>, scales: array<u32, {scales}> }}\n\
             alias {of}Tiles = array<{rows}>;\n\
             fn set_{name}_code(row: u32, h: u32, w: u32, word: u32) {{\n\
             {name}s[row / 16u]{row}.codes[h]{code} = word;\n}}\n\
             fn set_{name}_scales(row: u32, i: u32, word: u32) {{\n\
             {name}s[row / 16u]{row}.scales[i] = word;\n}}\n\
             fn {name}_scales(tile: u32, {which}, i: u32) -> u32 {{ return {name}s[tile]{place}.scales[i]; }}\n"
        )
    }

    /// What a lane reads together, with zeros to a vector of `to`.
    fn unit(&self, to: usize) -> String {
        let words = (0..to).map(|i| if i >= self.at_once { "0u".to_owned() } else { format!("x[{i}]") });
        let words = if self.at_once == 1 { vec!["x".to_owned(), "0u".to_owned()] } else { words.collect() };
        format!("vec{to}<u32>({})", words.join(", "))
    }
}

/// Types of keys and values as tiles of rows, and functions that read and write them: lane t's 16 codes of a group of a key
/// at once, lane g's 8 of a value.
pub(super) fn tiled([keys, values]: [Packing; 2], kv_heads: usize, d: usize) -> String {
    let (keys, values) = (Tiles::keys(keys), Tiles::values(values));
    let key16 = format!(
        "fn key16(tile: u32, {}, h: u32, group: u32, t: u32) -> vec4<u32> {{\n\
         let x = keys[tile]{}.codes[h][group][t];\nreturn {};\n}}\n",
        keys.place.0,
        keys.place.1,
        keys.unit(4)
    );
    let (c, x) = ("let c = 8u * group + g;\n", format!("values[tile]{}.codes[h]", values.place.1));
    let value = match values.packing.bits {
        4 | 8 => format!("let x = {x}[group][g];\nreturn {};", values.unit(2)),
        5 => format!("{c}let i = 5u * (c / 4u);\nreturn vec2<u32>({x}[i + c % 4u], {x}[i + 4u]);"),
        3 => format!("{c}let i = 3u * (c / 4u);\nreturn vec2<u32>({x}[i + c % 4u / 2u], {x}[i + 2u]);"),
        _ => format!("{c}return vec2<u32>({x}[c / 2u], 0u);"),
    };
    let value8 = format!(
        "fn value8(tile: u32, {}, h: u32, group: u32, g: u32) -> vec2<u32> {{\n{value}\n}}\n",
        values.place.0
    );
    [keys.text(kv_heads, d), values.text(kv_heads, d), key16, value8].concat()
}

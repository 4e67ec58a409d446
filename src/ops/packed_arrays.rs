//! How kernels see the arrays of a packed cache, whose formats differ: as words or vectors of them, or in tiles of rows.
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

/// Keys or values in tiles of 16 rows, which a product of matrices takes at once.
struct Tiles {
    name: &'static str,
    /// In names of types.
    of: &'static str,
    /// Rows of which a lane reads words of codes at once, and how many of each.
    at_once: [usize; 2],
    /// What a lane reads of a head: its `[group]`, the lane `[t]` or `[g]`, and which of several, `[i]`. All in one where bits
    /// are in planes.
    units: [usize; 3],
    packing: Packing,
}

impl Tiles {
    fn new(name: &'static str, of: &'static str, lanes: usize, packing: Packing, d: usize) -> Self {
        let (head, groups, each) = (packing.head_words(d), packing.groups(d), packing.tile[1]);
        let units = match packing.bits {
            4 | 8 => [groups, lanes, head / groups / lanes / each],
            _ => [1, 1, head / each],
        };
        Self { name, of, at_once: [4 / each, each], units, packing }
    }

    /// Types, and functions that write words of codes and of scales and read scales.
    fn text(&self, kv_heads: usize, d: usize) -> String {
        let Self { name, of, at_once: [rows, each], units: [groups, lanes, units], packing } = self;
        let [words, codes] = packing.sizes(kv_heads, d);
        let unit = format!("w / {each}u");
        format!(
            "alias {of}Unit = array<vec4<u32>, {}>;\n\
             struct {of}Tile {{\n\
             codes: array<array<array<array<{of}Unit, {units}>, {lanes}>, {groups}>, {kv_heads}>,\n\
             scales: array<array<vec2<u32>, 8>, {}>,\n}}\n\
             alias {of}Tiles = array<{of}Tile>;\n\
             fn set_{name}_code(row: u32, h: u32, w: u32, word: u32) {{\n\
             let unit = &{name}s[row / 16u].codes[h][{unit} / {}u][{unit} / {units}u % {lanes}u][{unit} % {units}u];\n\
             (*unit)[row % 16u / {rows}u][row % {rows}u * {each}u + w % {each}u] = word;\n}}\n\
             fn set_{name}_scales(row: u32, i: u32, word: u32) {{\n\
             {name}s[row / 16u].scales[i][row % 16u / 2u][row % 2u] = word;\n}}\n\
             fn {name}_scales(tile: u32, g: u32, i: u32) -> vec2<u32> {{ return {name}s[tile].scales[i][g]; }}\n",
            16 / rows,
            words - codes,
            lanes * units,
        )
    }
}

/// Types of keys and values in tiles, and functions that read and write them: lane t's 16 codes of a group of two keys at
/// once, lane g's 8 of four values.
pub(super) fn tile_access([keys, values]: [Packing; 2], kv_heads: usize, d: usize) -> String {
    let (keys, values) = (Tiles::new("key", "Key", 4, keys, d), Tiles::new("value", "Value", 8, values, d));
    let second = if keys.units[2] == 2 { "x[1][g]" } else { "vec4<u32>()" };
    let key16 = format!(
        "struct Near {{ near: vec4<u32>, far: vec4<u32> }}\n\
         fn key16(tile: u32, g: u32, h: u32, group: u32, t: u32) -> Near {{\n\
         let x = &keys[tile].codes[h][group][t];\n\
         let a = x[0][g];\nlet b = {second};\n\
         return Near(vec4<u32>(a.xy, b.xy), vec4<u32>(a.zw, b.zw));\n}}\n",
    );
    let (c, none) = ("let c = 8u * group + g;\n", "vec4<u32>()");
    let value = match values.packing.bits {
        8 => "let x = &values[tile].codes[h][group][g];\nreturn two_words(x[0][t], x[1][t]);".to_owned(),
        4 => format!("return two_words(values[tile].codes[h][group][g][0][t], {none});"),
        bits => {
            let (first, last) = match bits {
                5 => ("5u * (c / 4u) + c % 4u", "x[5u * (c / 4u) + 4u][t]"),
                3 => ("3u * (c / 4u) + c % 4u / 2u", "x[3u * (c / 4u) + 2u][t]"),
                _ => ("c / 2u", none),
            };
            format!("{c}let x = &values[tile].codes[h][0][0];\nreturn two_words(x[{first}][t], {last});")
        }
    };
    let quad8 = format!(
        "fn two_words(a: vec4<u32>, b: vec4<u32>) -> Quad {{\n\
         return Quad(vec2<u32>(a.x, b.x), vec2<u32>(a.y, b.y), vec2<u32>(a.z, b.z), vec2<u32>(a.w, b.w));\n}}\n\
         fn quad8(tile: u32, t: u32, h: u32, group: u32, g: u32) -> Quad {{\n{value}\n}}\n"
    );
    [keys.text(kv_heads, d), values.text(kv_heads, d), key16, quad8].concat()
}

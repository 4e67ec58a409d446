// Logical row places[t].x + places[t].y of the cache = rows[t, :], rounded to its type; rows past the end are skipped.
//
// Work split: one invocation per word of the rows as the cache stores them; with 16-bit values two values
// of an even width.
// Parts: row_at (pages), to_half, to_brain (pack).

struct Params { tokens: u32, width: u32, words: u32, logical: u32, capacity: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<u32>;
@group(0) @binding(4) var<uniform> params: Params;

// 0 f32, 1 f16, 2 bf16.
override KIND: u32 = 0u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.y * params.stride + group.x) * 256u + lane;
    if index >= params.tokens * params.words {
        return;
    }
    let t = index / params.words;
    let i = index % params.words;
    let at = places[t].x + places[t].y;
    if at >= params.logical {
        return;
    }
    let row = row_at(at);
    if row >= params.capacity {
        return;
    }
    let to = row * params.words + i;
    if KIND == 0u {
        cache[to] = bitcast<u32>(rows[t * params.width + i]);
    } else {
        let low = rows[t * params.width + 2u * i];
        let high = rows[t * params.width + 2u * i + 1u];
        if KIND == 1u {
            cache[to] = pack2x16float(vec2<f32>(low, high));
        } else {
            cache[to] = to_brain(low) | (to_brain(high) << 16u);
        }
    }
}

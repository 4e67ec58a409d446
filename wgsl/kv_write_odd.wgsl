// Logical row places[t].x + places[t].y of the cache = rows[t, :] for 16-bit values and an odd width: neighbouring
// rows share words.
//
// Work split: one invocation per value, which clears and sets its half of a word atomically.
// Parts: row_at (pages), to_half, to_brain (pack).

struct Params { tokens: u32, width: u32, logical: u32, capacity: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> rows: array<f32>;
@group(0) @binding(1) var<storage, read> places: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> table: array<u32>;
@group(0) @binding(3) var<storage, read_write> cache: array<atomic<u32>>;
@group(0) @binding(4) var<uniform> params: Params;

// 1 f16, 2 bf16.
override KIND: u32 = 1u;

@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let index = (group.y * params.stride + group.x) * 256u + lane;
    if index >= params.tokens * params.width {
        return;
    }
    let t = index / params.width;
    let at = places[t].x + places[t].y;
    if at >= params.logical {
        return;
    }
    let row = row_at(at);
    if row >= params.capacity {
        return;
    }
    let to = row * params.width + index % params.width;
    var bits: u32;
    if KIND == 1u {
        bits = to_half(rows[index]);
    } else {
        bits = to_brain(rows[index]);
    }
    let shift = (to & 1u) * 16u;
    atomicAnd(&cache[to >> 1u], ~(0xffffu << shift));
    atomicOr(&cache[to >> 1u], bits << shift);
}

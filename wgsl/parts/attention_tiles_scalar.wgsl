// Tiles of attention_coop in workgroup memory as scalars, from which alone Metal loads matrices.

var<workgroup> tile_k: array<f16, KEYS * PITCH>;
var<workgroup> tile_v: array<f16, KEYS * PITCH>;
var<workgroup> tile_p: array<f16, SUBGROUPS * ROWS * WEIGHT_PITCH>;
var<workgroup> staged: array<f32, SUBGROUPS * ROWS * SCORE_PITCH>;

fn put_keys(at: u32, values: vec4<f16>) {
    tile_k[at] = values.x;
    tile_k[at + 1u] = values.y;
    tile_k[at + 2u] = values.z;
    tile_k[at + 3u] = values.w;
}

fn put_values(at: u32, values: vec4<f16>) {
    tile_v[at] = values.x;
    tile_v[at + 1u] = values.y;
    tile_v[at + 2u] = values.z;
    tile_v[at + 3u] = values.w;
}

fn put_weights(at: u32, values: vec4<f16>) {
    tile_p[at] = values.x;
    tile_p[at + 1u] = values.y;
    tile_p[at + 2u] = values.z;
    tile_p[at + 3u] = values.w;
}

fn put_scores(at: u32, values: vec4<f32>) {
    staged[at] = values.x;
    staged[at + 1u] = values.y;
    staged[at + 2u] = values.z;
    staged[at + 3u] = values.w;
}

fn scores_at(at: u32) -> vec4<f32> {
    return vec4<f32>(staged[at], staged[at + 1u], staged[at + 2u], staged[at + 3u]);
}

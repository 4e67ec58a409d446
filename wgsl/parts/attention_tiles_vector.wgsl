// Tiles of attention_coop in workgroup memory as vectors, which most drivers move faster; positions count values.

var<workgroup> tile_k: array<vec4<f16>, KEYS * PITCH / 4u>;
var<workgroup> tile_v: array<vec4<f16>, KEYS * PITCH / 4u>;
var<workgroup> tile_p: array<vec4<f16>, SUBGROUPS * ROWS * WEIGHT_PITCH / 4u>;
var<workgroup> staged: array<vec4<f32>, SUBGROUPS * ROWS * SCORE_PITCH / 4u>;

fn put_keys(at: u32, values: vec4<f16>) {
    tile_k[at / 4u] = values;
}

fn put_values(at: u32, values: vec4<f16>) {
    tile_v[at / 4u] = values;
}

fn put_weights(at: u32, values: vec4<f16>) {
    tile_p[at / 4u] = values;
}

fn put_scores(at: u32, values: vec4<f32>) {
    staged[at / 4u] = values;
}

fn scores_at(at: u32) -> vec4<f32> {
    return staged[at / 4u];
}

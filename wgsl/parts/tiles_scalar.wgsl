// Tiles in workgroup memory as scalars, from which alone Metal loads matrices.

var<workgroup> tile_x: array<f16, BM * PITCH>;
var<workgroup> tile_w: array<f16, BN * PITCH>;

fn put_x(at: u32, values: vec4<f16>) {
    tile_x[at] = values.x;
    tile_x[at + 1u] = values.y;
    tile_x[at + 2u] = values.z;
    tile_x[at + 3u] = values.w;
}

fn put_w(at: u32, values: vec4<f16>) {
    tile_w[at] = values.x;
    tile_w[at + 1u] = values.y;
    tile_w[at + 2u] = values.z;
    tile_w[at + 3u] = values.w;
}

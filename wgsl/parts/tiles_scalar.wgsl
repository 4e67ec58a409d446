// Tiles in workgroup memory as scalars, from which alone Metal loads matrices.

var<workgroup> tile_x: array<f16, BUFFERS * BM * PITCH>;
var<workgroup> tile_w: array<f16, BUFFERS * BN * PITCH>;

fn put_x(at: u32, values: Halves) {
    tile_x[at] = values.low.x;
    tile_x[at + 1u] = values.low.y;
    tile_x[at + 2u] = values.low.z;
    tile_x[at + 3u] = values.low.w;
    tile_x[at + 4u] = values.high.x;
    tile_x[at + 5u] = values.high.y;
    tile_x[at + 6u] = values.high.z;
    tile_x[at + 7u] = values.high.w;
}

fn put_w(at: u32, values: Halves) {
    tile_w[at] = values.low.x;
    tile_w[at + 1u] = values.low.y;
    tile_w[at + 2u] = values.low.z;
    tile_w[at + 3u] = values.low.w;
    tile_w[at + 4u] = values.high.x;
    tile_w[at + 5u] = values.high.y;
    tile_w[at + 6u] = values.high.z;
    tile_w[at + 7u] = values.high.w;
}

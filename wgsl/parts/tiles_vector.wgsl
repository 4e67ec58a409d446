// Tiles in workgroup memory as vectors, which most drivers move faster; positions count halves.

var<workgroup> tile_x: array<vec4<f16>, BUFFERS * BM * PITCH / 4u>;
var<workgroup> tile_w: array<vec4<f16>, BUFFERS * BN * PITCH / 4u>;

fn put_x(at: u32, values: Halves) {
    tile_x[at / 4u] = values.low;
    tile_x[at / 4u + 1u] = values.high;
}

fn put_w(at: u32, values: Halves) {
    tile_w[at / 4u] = values.low;
    tile_w[at / 4u + 1u] = values.high;
}

// Tiles in workgroup memory as vectors, which most drivers move faster; positions count halves.

var<workgroup> tile_x: array<vec4<f16>, BM * PITCH / 4u>;
var<workgroup> tile_w: array<vec4<f16>, BN * PITCH / 4u>;

fn put_x(at: u32, values: vec4<f16>) {
    tile_x[at / 4u] = values;
}

fn put_w(at: u32, values: vec4<f16>) {
    tile_w[at / 4u] = values;
}

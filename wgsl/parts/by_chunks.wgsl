// Chunks of 32 values: of a row of packed weights, of a row of x as planes of bytes, and their product.
// Needs params; Packed, packed (codes_*), product.

const CHUNKS: u32 = params.units / 4u;

struct Held { p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, scaling: vec4<f32> }

fn fetch(row: u32, c: u32) -> Packed {
    return packed(row, min(c, CHUNKS - 1u));
}

fn multiply(w: Packed, x: Held) -> f32 {
    return product(w, x.p0, x.p1, x.p2, x.p3, x.scaling);
}

// Packed heads that are rotated alone.

fn into_basis(row: u32, x: mat2x4<f32>, h: u32, c: u32) -> mat2x4<f32> {
    return x;
}

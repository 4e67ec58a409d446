// Packed heads without a basis: nothing is taken off keys, and factors are the rotation's signs. Needs signs4 (signs),
// KEY_CENTRES of the kernel.

fn basis8(row: u32, h: u32, c: u32) -> mat2x4<f32> {
    if row == KEY_CENTRES {
        return mat2x4<f32>();
    }
    return kept_factors(c);
}

fn keep_factors(c: u32, x: mat2x4<f32>) {}

fn kept_factors(c: u32) -> mat2x4<f32> {
    return mat2x4<f32>(signs4(8u * c), signs4(8u * c + 4u));
}

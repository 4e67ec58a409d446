// The basis of packed heads, [5, kv_heads * d]: what is taken off keys, and factors of keys, queries, values and results, which
// have the rotation's signs. Lane c has 8 values of a head; lanes past its end get zeros.

fn basis8(row: u32, h: u32, c: u32) -> mat2x4<f32> {
    if c >= params.eights {
        return mat2x4<f32>();
    }
    let at = 2u * ((row * params.kv_heads + h) * params.eights + c);
    return mat2x4<f32>(bases[at], bases[at + 1u]);
}

override BASIS_HERE: u32 = 2u * LANES;
var<workgroup> basis_here: array<vec4<f32>, BASIS_HERE>;

// Factors that wait in workgroup memory.
fn keep_factors(c: u32, x: mat2x4<f32>) {
    basis_here[2u * c] = x[0];
    basis_here[2u * c + 1u] = x[1];
}

fn kept_factors(c: u32) -> mat2x4<f32> {
    return mat2x4<f32>(basis_here[2u * c], basis_here[2u * c + 1u]);
}

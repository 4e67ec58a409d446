// The basis of packed heads: rows of centres and of factors of keys, queries, values and results, [8, kv_heads * d].
// Lane c has 8 values of a head; lanes past its end get zeros.

fn basis4(row: u32, h: u32, c: u32, last: u32) -> vec4<f32> {
    return bases[(row * params.kv_heads + h) * 2u * params.eights + 2u * c + last];
}

override BASIS_HERE: u32 = 4u * LANES;

// What is taken off, and a factor.
struct Basis { centre: mat2x4<f32>, factor: mat2x4<f32> }

fn basis_of(row: u32, h: u32, c: u32) -> Basis {
    if c >= params.eights {
        return Basis();
    }
    return Basis(
        mat2x4<f32>(basis4(row, h, c, 0u), basis4(row, h, c, 1u)),
        mat2x4<f32>(basis4(row + 1u, h, c, 0u), basis4(row + 1u, h, c, 1u)),
    );
}

var<workgroup> basis_here: array<vec4<f32>, BASIS_HERE>;

// One that waits in workgroup memory.
fn keep_basis(c: u32, x: Basis) {
    basis_here[4u * c] = x.centre[0];
    basis_here[4u * c + 1u] = x.centre[1];
    basis_here[4u * c + 2u] = x.factor[0];
    basis_here[4u * c + 3u] = x.factor[1];
}

fn kept_basis(c: u32) -> Basis {
    return Basis(
        mat2x4<f32>(basis_here[4u * c], basis_here[4u * c + 1u]),
        mat2x4<f32>(basis_here[4u * c + 2u], basis_here[4u * c + 3u]),
    );
}

fn into_basis(basis: Basis, x: mat2x4<f32>) -> mat2x4<f32> {
    return mat2x4<f32>(
        (x[0] - basis.centre[0]) * basis.factor[0],
        (x[1] - basis.centre[1]) * basis.factor[1],
    );
}

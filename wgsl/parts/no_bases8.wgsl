// Packed heads that are rotated alone.

struct Basis { none: u32 }

fn basis_of(row: u32, h: u32, c: u32) -> Basis {
    return Basis(0u);
}

fn keep_basis(c: u32, x: Basis) {}

fn kept_basis(c: u32) -> Basis {
    return Basis(0u);
}

fn into_basis(basis: Basis, x: mat2x4<f32>) -> mat2x4<f32> {
    return x;
}

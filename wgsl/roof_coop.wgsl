// C_ij <- A_i B_j + C_ij, ROUNDS times, in registers: how fast cooperative matrices multiply.
//
// Each subgroup keeps 2 tiles of A, 4 of B (f16) and 8 of C (f32): 8 products a round. The types MatA, MatB,
// MatC and their side EDGE come from generated lines: 16 or 8, as the adapter has them. Best: 628 TFLOP/s on an NVIDIA
// H200.

enable f16;
enable wgpu_cooperative_matrix;

override WG: u32 = 128;

struct Params { rounds: u32 }

@group(0) @binding(0) var<storage, read> x: array<f16>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(WG)
fn main(@builtin(workgroup_id) id: vec3<u32>) {
    let a0 = coopLoadT<MatA>(&x[0], EDGE);
    let a1 = coopLoadT<MatA>(&x[EDGE * EDGE], EDGE);
    let b0 = coopLoadT<MatB>(&x[0], EDGE);
    let b1 = coopLoadT<MatB>(&x[EDGE * EDGE], EDGE);
    let b2 = coopLoadT<MatB>(&x[2 * EDGE * EDGE], EDGE);
    let b3 = coopLoadT<MatB>(&x[3 * EDGE * EDGE], EDGE);
    var c00: MatC;
    var c01: MatC;
    var c02: MatC;
    var c03: MatC;
    var c10: MatC;
    var c11: MatC;
    var c12: MatC;
    var c13: MatC;
    for (var i = 0u; i < params.rounds; i++) {
        c00 = coopMultiplyAdd(a0, b0, c00);
        c01 = coopMultiplyAdd(a0, b1, c01);
        c02 = coopMultiplyAdd(a0, b2, c02);
        c03 = coopMultiplyAdd(a0, b3, c03);
        c10 = coopMultiplyAdd(a1, b0, c10);
        c11 = coopMultiplyAdd(a1, b1, c11);
        c12 = coopMultiplyAdd(a1, b2, c12);
        c13 = coopMultiplyAdd(a1, b3, c13);
    }
    let sum = c00 + c01 + c02 + c03 + c10 + c11 + c12 + c13;
    // All write the same values.
    coopStoreT(sum, &y[0], EDGE);
}

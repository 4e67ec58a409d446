// y = c + a b of fragments, one subgroup. Run once on a device that offers such products, and compared with the same on the
// CPU. Parts: fragment_product (fragments).

override WG: u32 = 32;

@group(0) @binding(0) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read> b: array<vec2<u32>>;
@group(0) @binding(2) var<storage, read> c: array<vec4<f32>>;
@group(0) @binding(3) var<storage, read_write> y: array<vec4<f32>>;

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) i: u32) {
    y[i] = fragment_product(a[i], b[i], c[i], i);
}

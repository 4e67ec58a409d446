// 32 codes of 4 bits, one load of 16 bytes, as bytes: of each unit of 8, the even ones and the odd ones.

const CENTRE: f32 = 0.0;

struct Packed { words: vec4<u32>, scale: f32, offset: f32 }

fn packed(row: u32, c: u32) -> Packed {
    return Packed(weight[row * (params.units / 4u) + c], scale_at(row, 4u * c), offset_at(row, 4u * c));
}

fn codes(w: Packed) -> Codes {
    return Codes(w.words & vec4<u32>(0x0f0f0f0fu), (w.words >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu));
}

fn first4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return vec4<i32>(a.x, a.z, b.x, b.z);
}

fn last4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return vec4<i32>(a.y, a.w, b.y, b.w);
}

// 32 codes of 8 bits, two loads of 16 bytes, as bytes less 128: of each unit of 8, the first four and the last.

const CENTRE: f32 = 128.0;

struct Packed { left: vec4<u32>, right: vec4<u32>, scale: f32, offset: f32 }

fn packed(row: u32, c: u32) -> Packed {
    let at = (row * (params.units / 4u) + c) * 2u;
    return Packed(weight[at], weight[at + 1u], scale_at(row, 4u * c), offset_at(row, 4u * c));
}

fn codes(w: Packed) -> Codes {
    let l = w.left ^ vec4<u32>(0x80808080u);
    let r = w.right ^ vec4<u32>(0x80808080u);
    return Codes(vec4<u32>(l.x, l.z, r.x, r.z), vec4<u32>(l.y, l.w, r.y, r.w));
}

fn first4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return a;
}

fn last4(a: vec4<i32>, b: vec4<i32>) -> vec4<i32> {
    return b;
}

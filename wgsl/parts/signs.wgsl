// The fixed signs of packed heads: x or -x, by element i of a head, as bit 16 of i (i + 1) 0x9e3779b1 says. Here it is the
// last bit, for that is where a float has its sign.

fn signed(x: f32, i: u32) -> f32 {
    let chirp = i * (i + 1u) * 0xbcd88000u;
    return bitcast<f32>(bitcast<u32>(x) ^ (chirp & 0x80000000u));
}

// Codes as numbers, less their zero, two at a time: a few bits set in place in the fraction of a power of two are a half
// exactly, and so is what is left when power and zero are taken off.
// Needs narrow; nothing (codes8).
enable f16;

// 4 codes, one in each byte.
fn centred4(codes: u32, bits: u32) -> vec4<f32> {
    var pairs = vec2<u32>(codes, codes >> 8u) & vec2<u32>(0x00ff00ffu);
    var power = 0x64006400u;
    var zero = 1152.0h;
    if bits < 8u {
        // Of a smaller power, for halves of what codes count in.
        pairs = vec2<u32>(codes << 4u, codes >> 4u) & vec2<u32>(((1u << bits) - 1u) * 0x00100010u);
        power = 0x54005400u;
        zero = f16(f32(64u + (1u << (bits - 1u))) - 0.5);
    }
    pairs |= vec2<u32>(power | nothing);
    return vec4<f32>(narrow(pairs) - vec4<f16>(zero)).xzyw;
}

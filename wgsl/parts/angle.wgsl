// cos_sin(x), cosine(x), sine(x): cosine and sine to about 1e-7 at every angle that f32 can hold;
// cos_sin_of_place(x) the same of angles below 2^32, in fewer instructions.
//
// An f32 is a whole number m < 2^24 times a power of two, so x / 2 pi less its whole turns is m times a
// window of the bits of 1 / 2 pi (Payne and Hanek, 1983). That is integer arithmetic, exact whatever a
// compiler does to floats; what is left is at most an eighth of a turn, where short polynomials suffice.

// 32 bits of 1 / 2 pi from bit `at` after the binary point on; zeros before the point.
fn inverse_turn(at: i32) -> u32 {
    if at <= -32 {
        return 0u;
    }
    let word = (at + 32) / 32;
    let shift = u32(at + 32) % 32u;
    let high = inverse_turn_word(word);
    return (high << shift) | ((inverse_turn_word(word + 1) >> (31u - shift)) >> 1u);
}

// Chosen without a branch, for neighbours need different words.
fn inverse_turn_word(i: i32) -> u32 {
    var word = select(0u, 0x28be60dbu, i == 1);
    word = select(word, 0x9391054au, i == 2);
    word = select(word, 0x7f09d5f4u, i == 3);
    word = select(word, 0x7d4d3770u, i == 4);
    word = select(word, 0x36d8a566u, i == 5);
    return select(word, 0x4f10e410u, i == 6);
}

// The upper half of a 64-bit product.
fn multiply_high(a: u32, b: u32) -> u32 {
    let low = (a & 0xffffu) * (b & 0xffffu);
    let middle = (a >> 16u) * (b & 0xffffu) + (low >> 16u);
    let other = (a & 0xffffu) * (b >> 16u) + (middle & 0xffffu);
    return (a >> 16u) * (b >> 16u) + (middle >> 16u) + (other >> 16u);
}

fn cos_sin(x: f32) -> vec2<f32> {
    let bits = bitcast<u32>(x);
    let exponent = i32((bits >> 23u) & 255u) - 150;
    let m = (bits & 0x7fffffu) | 0x800000u;
    // Turns as a fraction of 2^32, wrapping; angles below 2^-31 have none.
    let fraction = m * inverse_turn(exponent) + multiply_high(m, inverse_turn(exponent + 32));
    let result = cos_sin_of_turns(fraction);
    return vec2<f32>(result.x, select(result.y, -result.y, x < 0.0));
}

// x is a whole number and 2^-32 times another: their products with the first bits of 1 / 2 pi.
fn cos_sin_of_place(x: f32) -> vec2<f32> {
    let whole = u32(abs(x));
    let rest = u32((abs(x) - f32(whole)) * 4294967296.0);
    let first = 0x28be60dbu;
    let fraction = whole * first + multiply_high(whole, 0x9391054au) + multiply_high(rest, first);
    let result = cos_sin_of_turns(fraction);
    return vec2<f32>(result.x, select(result.y, -result.y, x < 0.0));
}

// Of a fraction of a turn, times 2^32.
fn cos_sin_of_turns(fraction: u32) -> vec2<f32> {
    let quarter = (fraction + 0x20000000u) >> 30u;
    let r = f32(bitcast<i32>(fraction - (quarter << 30u))) * 1.4629180792671596e-9;

    let s = r * r;
    let sine = r + r * s * (-0.16666655 + s * (0.0083321609 - s * 0.00019515296));
    let cosine = 1.0 - 0.5 * s + s * s * (0.041666646 + s * (-0.0013887316 + s * 0.000024433157));
    var result = vec2<f32>(cosine, sine);
    if (quarter & 1u) == 1u {
        result = vec2<f32>(-sine, cosine);
    }
    if (quarter & 2u) == 2u {
        result = -result;
    }
    return result;
}

fn sine(x: f32) -> f32 {
    return cos_sin(x).y;
}

fn cosine(x: f32) -> f32 {
    return cos_sin(x).x;
}

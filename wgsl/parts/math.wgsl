// Functions that WGSL lacks, or has with too little precision.

// x less the nearest multiple of 2 pi, which is split into parts of few bits so that their products with
// the whole number k are exact up to k = 2^18 (Cody and Waite, 1980).
fn turn(x: f32) -> f32 {
    let k = round(x * 0.15915494);
    var r = x - k * 6.25;
    r = r - k * 0.03125;
    r = r - k * 0.00189208984375;
    r = r - k * 4.291534423828125e-05;
    return r - k * 3.0199159777e-07;
}

fn sine(x: f32) -> f32 {
    return sin(turn(x));
}

fn cosine(x: f32) -> f32 {
    return cos(turn(x));
}

// Abramowitz and Stegun 7.1.26, |error| < 1.5e-7.
fn erf(x: f32) -> f32 {
    let a = min(abs(x), 10.0);
    let t = 1.0 / (1.0 + 0.3275911 * a);
    let p = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
    return sign(x) * (1.0 - p * exp(-a * a));
}

// One row of x as planes of bytes (planes) in workgroup memory. A workgroup of WG invocations makes them together, laid
// out so that neighbours read neighbouring words.
// Parts: x8 and dot8 (x_aligned), gain8 (gain, no_gain).

// Values of x in units of 8 and in chunks of 32.
const UNITS: u32 = params.units;
const CHUNKS: u32 = params.units / 4u;

// Unit 4 c + j at j * CHUNKS + c.
var<workgroup> planes: array<vec4<u32>, UNITS>;
var<workgroup> scaling: array<vec4<f32>, CHUNKS>;

// Returns the squares of the values that this invocation took.
fn make_planes(lane: u32) -> f32 {
    var own = 0.0;
    // All go around equally often: where NVIDIA's compiler is not sure of that, it prepares every exchange for lanes that
    // are elsewhere.
    for (var first = 0u; first < UNITS; first += WG) {
        let counts = UNITS % WG == 0u || first + lane < UNITS;
        let i = min(first + lane, UNITS - 1u);
        let raw = x8(0u, i);
        let gain = gain8(i);
        let made = numbers(mat2x4<f32>(raw[0] * gain[0], raw[1] * gain[1]));
        if counts {
            own += dot8(raw, raw);
            planes[(i & 3u) * CHUNKS + (i >> 2u)] = made.words;
            if (i & 3u) == 0u {
                scaling[i >> 2u] = made.scaling;
            }
        }
    }
    return own;
}

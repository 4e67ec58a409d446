// One row of x as planes of bytes (planes) in workgroup memory. A workgroup of WG invocations makes them together, laid
// out so that neighbours read neighbouring words. Invocations multiply a chunk of 32 values at a time.
// Parts: x8 and dot8 (x_aligned), gain8 (gain, no_gain), numbers (planes), Held, CHUNKS (by_chunks).

// Values of x in units of 8.
const UNITS: u32 = params.units;

// Unit 4 c + j at j * CHUNKS + c.
var<workgroup> planes: array<vec4<u32>, UNITS>;
var<workgroup> scaling: array<vec4<f32>, CHUNKS>;

// A unit of x and its gain, as fetched.
struct Unit { x: mat2x4<f32>, gain: mat2x4<f32> }

// The first units that this invocation makes planes of.
var<private> first_unit: Unit;
var<private> second_unit: Unit;

fn unit_at(i: u32) -> Unit {
    let inside = min(i, UNITS - 1u);
    return Unit(x8(0u, inside), gain8(inside));
}

// What is asked for later comes later: before weights.
fn fetch_x(lane: u32) {
    first_unit = unit_at(lane);
    if UNITS > WG {
        second_unit = unit_at(lane + WG);
    }
}

// Makes planes of what was fetched, and of the rest; returns the squares of the values that this invocation took.
fn hold(lane: u32) -> f32 {
    var own = 0.0;
    // All go around equally often: where NVIDIA's compiler is not sure of that, it prepares every exchange for lanes that
    // are elsewhere.
    for (var first = 0u; first < UNITS; first += WG) {
        let i = first + lane;
        var unit = first_unit;
        if first == WG {
            unit = second_unit;
        } else if first > WG {
            unit = unit_at(i);
        }
        let made = numbers(mat2x4<f32>(unit.x[0] * unit.gain[0], unit.x[1] * unit.gain[1]));
        if UNITS % WG == 0u || i < UNITS {
            own += dot8(unit.x, unit.x);
            planes[(i & 3u) * CHUNKS + (i >> 2u)] = made.words;
            if (i & 3u) == 0u {
                scaling[i >> 2u] = made.scaling;
            }
        }
    }
    return own;
}

// Chunk c; nothing past the last, if there may be.
fn held(c: u32, may_end: bool) -> Held {
    let i = min(c, CHUNKS - 1u);
    var scaling_here = scaling[i];
    if may_end {
        scaling_here = select(vec4<f32>(0.0), scaling_here, c < CHUNKS);
    }
    return Held(planes[i], planes[CHUNKS + i], planes[2u * CHUNKS + i], planes[3u * CHUNKS + i], scaling_here);
}

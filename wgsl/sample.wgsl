// One token drawn from logits / temperature: the top_k greatest, of these the values whose strictly greater
// ones sum to less than top_p, of these the ones no less than min_p of the greatest; then the first index
// at which the running sum of what is left exceeds u of its total.
//
// Work split: one workgroup. Thresholds are found by halving the range of order-preserving integer keys,
// three pivots at a time, so 16 passes find one. For the draw each invocation owns a run of indices.
// Parts: sum4, max4 (sum_shared, sum_subgroup).

struct Params { n: u32, top_k: u32, inverse_temperature: f32, top_p: f32, min_p: f32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> u: array<f32>;
@group(0) @binding(2) var<storage, read_write> token: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

const WG: u32 = 256u;

var<workgroup> masses: array<f32, WG>;
var<workgroup> last_kept: array<u32, WG>;

// Greater floats have greater keys.
fn key(x: f32) -> u32 {
    let bits = bitcast<u32>(x);
    return select(bits | 0x80000000u, ~bits, (bits & 0x80000000u) != 0u);
}

fn kept(x: f32, threshold: u32, greatest: f32) -> f32 {
    let p = exp((x - greatest) * params.inverse_temperature);
    return select(0.0, p, key(x) >= threshold && p >= params.min_p);
}

@compute @workgroup_size(WG)
fn main(@builtin(local_invocation_index) lane: u32) {
    var greatest = -3.0e38;
    for (var i = lane; i < params.n; i += WG) {
        greatest = max(greatest, logits[i]);
    }
    greatest = max4(lane, vec4<f32>(greatest)).x;

    // The greatest key that at least top_k keys reach, two bits a pass.
    var threshold = 0u;
    if params.top_k > 0u && params.top_k < params.n {
        for (var shift = 30u; shift <= 30u; shift -= 2u) {
            let pivots = vec3<u32>(threshold) + (vec3<u32>(1u, 2u, 3u) << vec3<u32>(shift));
            var counts = vec3<f32>(0.0);
            for (var i = lane; i < params.n; i += WG) {
                counts += select(vec3<f32>(0.0), vec3<f32>(1.0), vec3<u32>(key(logits[i])) >= pivots);
            }
            let reached = sum4(lane, vec4<f32>(counts, 0.0)).xyz >= vec3<f32>(f32(params.top_k));
            threshold += (u32(reached.x) + u32(reached.y) + u32(reached.z)) << shift;
        }
    }

    // The greatest key such that it and all above have at least top_p of the mass: what is strictly above it
    // has less, so it is the least that is kept.
    if params.top_p < 1.0 {
        var own = 0.0;
        for (var i = lane; i < params.n; i += WG) {
            let x = logits[i];
            own += select(0.0, exp((x - greatest) * params.inverse_temperature), key(x) >= threshold);
        }
        let wanted = params.top_p * sum4(lane, vec4<f32>(own, 0.0, 0.0, 0.0)).x;
        var below = 0u;
        for (var shift = 30u; shift <= 30u; shift -= 2u) {
            let pivots = vec3<u32>(below) + (vec3<u32>(1u, 2u, 3u) << vec3<u32>(shift));
            var mass = vec3<f32>(0.0);
            for (var i = lane; i < params.n; i += WG) {
                let x = logits[i];
                let p = exp((x - greatest) * params.inverse_temperature);
                let counts = (vec3<u32>(key(x)) >= pivots) & vec3<bool>(key(x) >= threshold);
                mass += select(vec3<f32>(0.0), vec3<f32>(p), counts);
            }
            let reached = sum4(lane, vec4<f32>(mass, 0.0)).xyz >= vec3<f32>(wanted);
            below += (u32(reached.x) + u32(reached.y) + u32(reached.z)) << shift;
        }
        threshold = max(threshold, below);
    }

    let run = (params.n + WG - 1u) / WG;
    let first = min(lane * run, params.n);
    let end = min(first + run, params.n);
    var mass = 0.0;
    var last = 0u;
    for (var i = first; i < end; i++) {
        let p = kept(logits[i], threshold, greatest);
        mass += p;
        last = select(last, i, p > 0.0);
    }
    masses[lane] = mass;
    last_kept[lane] = last;
    workgroupBarrier();

    if lane == 0u {
        var total = 0.0;
        for (var i = 0u; i < WG; i++) {
            total += masses[i];
        }
        let target_mass = u[0] * total;
        // The run in which the sum exceeds the target; should rounding deny it, the last that keeps any.
        var chosen = 0u;
        var before = 0.0;
        var running = 0.0;
        var found = false;
        for (var i = 0u; i < WG; i++) {
            if !found && masses[i] > 0.0 {
                chosen = i;
                before = running;
                running += masses[i];
                found = running > target_mass;
            }
        }
        var index = last_kept[chosen];
        running = before;
        for (var i = chosen * run; i <= last_kept[chosen]; i++) {
            running += kept(logits[i], threshold, greatest);
            if running > target_mass {
                index = i;
                break;
            }
        }
        token[0] = index;
    }
}

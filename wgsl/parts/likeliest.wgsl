// The greatest of the n values four(0), four(1), .. by a workgroup of WG invocations, the first of equals; its index is NONE if
// no value is a number.
// Every invocation gets the result; all must call. Four loads of four values are in flight at a time.

override WG: u32 = 256u;

const NOTHING: f32 = -3.0e38;
const NONE: u32 = 0xffffffffu;

var<workgroup> values: array<f32, WG>;
var<workgroup> indices: array<u32, WG>;

struct Likeliest {
    value: f32,
    index: u32,
    // At least WG values are no less than this, where there are so many; else "nothing".
    floor: f32,
}

struct Sixteen { a: vec4<f32>, b: vec4<f32>, c: vec4<f32>, d: vec4<f32> }

// four(i), four(i + step), .. and two more, for i < end; "nothing" from `end` on.
fn sixteen(i: u32, step: u32, end: u32) -> Sixteen {
    let nothing = vec4<f32>(NOTHING);
    let k = vec4<u32>(i, i + step, i + 2u * step, i + 3u * step);
    let j = min(k, vec4<u32>(end - 1u));
    let x = Sixteen(four(j.x), four(j.y), four(j.z), four(j.w));
    return Sixteen(
        x.a,
        select(nothing, x.b, k.y < end),
        select(nothing, x.c, k.z < end),
        select(nothing, x.d, k.w < end),
    );
}

fn likeliest(lane: u32, n: u32, with_floor: bool) -> Likeliest {
    let fours = (n + 3u) / 4u;
    var best = vec4<f32>(NOTHING);
    var at = vec4<u32>(min(lane, fours - 1u));
    for (var i = lane; i < fours; i += 4u * WG) {
        let x = sixteen(i, WG, fours);
        at = select(at, vec4<u32>(i), x.a > best);
        best = max(best, x.a);
        at = select(at, vec4<u32>(i + WG), x.b > best);
        best = max(best, x.b);
        at = select(at, vec4<u32>(i + 2u * WG), x.c > best);
        best = max(best, x.c);
        at = select(at, vec4<u32>(i + 3u * WG), x.d > best);
        best = max(best, x.d);
    }
    let value = max(max(best.x, best.y), max(best.z, best.w));
    let places = select(vec4<u32>(NONE), 4u * at + vec4<u32>(0u, 1u, 2u, 3u), best == vec4<f32>(value));
    values[lane] = value;
    indices[lane] = min(min(places.x, places.y), min(places.z, places.w));
    for (var half = WG / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if lane < half {
            let other = values[lane + half];
            let other_index = indices[lane + half];
            if other > values[lane] || (other == values[lane] && other_index < indices[lane]) {
                values[lane] = other;
                indices[lane] = other_index;
            }
        }
    }
    workgroupBarrier();
    let index = select(NONE, min(indices[0], n - 1u), values[0] > NOTHING);
    var result = Likeliest(values[0], index, NOTHING);
    workgroupBarrier();
    if with_floor && fours >= WG {
        values[lane] = value;
        for (var half = WG / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if lane < half {
                values[lane] = min(values[lane], values[lane + half]);
            }
        }
        workgroupBarrier();
        result.floor = values[0];
        workgroupBarrier();
    }
    return result;
}

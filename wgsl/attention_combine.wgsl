// y = sum_s exp(m_s - m) r_s / sum_s exp(m_s - m) l_s: the splits of attention_split together, where a split
// s gave d sums r, their maximum m and the sum l of weights, and m is the greatest maximum.
//
// Work split: one workgroup per query and head, invocations stride over the head's values.

struct Params { d: u32, splits: u32, rows: u32, stride: u32 }

@group(0) @binding(0) var<storage, read> partials: array<f32>;
@group(0) @binding(1) var<storage, read_write> y: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = group.y * params.stride + group.x;
    if row >= params.rows {
        return;
    }
    let pitch = params.d + 2u;
    let first = row * params.splits * pitch;
    var greatest = -3.0e38;
    for (var s = 0u; s < params.splits; s++) {
        greatest = max(greatest, partials[first + s * pitch + params.d]);
    }
    for (var i = lane; i < params.d; i += 64u) {
        var result = 0.0;
        var total = 0.0;
        for (var s = 0u; s < params.splits; s++) {
            let at = first + s * pitch;
            let weight = partials[at + params.d + 1u];
            // A split without keys wrote no sums.
            if weight > 0.0 {
                let factor = exp(partials[at + params.d] - greatest);
                total += factor * weight;
                result += factor * partials[at + i];
            }
        }
        y[row * params.d + i] = result / total;
    }
}

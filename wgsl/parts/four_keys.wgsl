// Four keys at a time: where they are, and the scores of one with up to HEADS query heads. Needs cache8_*, pages.

// Four keys or values of a part, as they are stored.
struct Four { a: Eight, b: Eight, c: Eight, d: Eight }

// Where they are: from position j on, a multiple of 4, none past the last, in the page whose first row is `page`.
fn rows_of(column: u32, pitch: u32, page: u32, j: u32, last: u32) -> vec4<u32> {
    let positions = vec4<u32>(j) + vec4<u32>(0u, 1u, 2u, 3u);
    return vec4<u32>(column + page * pitch) + min(positions, vec4<u32>(last)) % PAGE * pitch;
}

// This lane's share of the scores of a key with each query head.
fn scores(q0: mat2x4<f32>, q1: mat2x4<f32>, q2: mat2x4<f32>, q3: mat2x4<f32>, key: mat2x4<f32>) -> vec4<f32> {
    var score = vec4<f32>(dot(q0[0], key[0]) + dot(q0[1], key[1]), 0.0, 0.0, 0.0);
    if HEADS > 1u { score.y = dot(q1[0], key[0]) + dot(q1[1], key[1]); }
    if HEADS > 2u { score.z = dot(q2[0], key[0]) + dot(q2[1], key[1]); }
    if HEADS > 3u { score.w = dot(q3[0], key[0]) + dot(q3[1], key[1]); }
    return score;
}

// x in registers as planes of bytes (planes_here), a chunk of 32 values for each invocation of a team.
// Parts: packed (codes_*).

struct Held { p0: vec4<u32>, p1: vec4<u32>, p2: vec4<u32>, p3: vec4<u32>, scaling: vec4<f32> }

fn hold(lane: u32) -> f32 {
    return make_planes(lane);
}

// Chunk `member`; nothing where there is none.
fn held(member: u32) -> Held {
    let c = min(member, CHUNKS - 1u);
    let scaling = select(vec4<f32>(0.0), scaling[c], member < CHUNKS);
    return Held(planes[c], planes[CHUNKS + c], planes[2u * CHUNKS + c], planes[3u * CHUNKS + c], scaling);
}

fn fetch(row: u32, member: u32) -> Packed {
    return packed(row, min(member, CHUNKS - 1u));
}

fn multiply(w: Packed, x: Held) -> f32 {
    return product(w, x.p0, x.p1, x.p2, x.p3, x.scaling);
}

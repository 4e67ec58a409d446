// The greatest of a head. Needs across4 (lanes_*).

fn greatest4(x: vec4<f32>) -> f32 {
    return max(max(abs(x.x), abs(x.y)), max(abs(x.z), abs(x.w)));
}

// The greatest magnitude among so many neighbours; all call.
fn greatest_of(lane: u32, x: mat2x4<f32>, lanes: u32) -> f32 {
    var most = max(greatest4(x[0]), greatest4(x[1]));
    for (var distance = 1u; distance < lanes; distance *= 2u) {
        most = max(most, across4(lane, vec4<f32>(most), distance).x);
    }
    return most;
}

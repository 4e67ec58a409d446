// Queries in f32, 8 values a lane. Needs made_ready (meet).

struct Queries { a: mat2x4<f32>, b: mat2x4<f32>, c: mat2x4<f32>, d: mat2x4<f32> }

// Lane c's part of the queries that stand ready.
fn queries_of(c: u32) -> Queries {
    return Queries(
        made_ready(0u, c),
        made_ready(min(1u, HEADS - 1u), c),
        made_ready(min(2u, HEADS - 1u), c),
        made_ready(HEADS - 1u, c),
    );
}

fn unit_of(q: Queries) -> vec4<f32> {
    return vec4<f32>(1.0);
}

// Keys and values that are stored as they are.

const SPAN: u32 = 64u;

fn key_scale(h: u32, j: u32, c: u32) -> f32 {
    return 1.0;
}

fn value_scale(h: u32, j: u32, c: u32) -> f32 {
    return 1.0;
}

// Floats of a kind that is known when the pipeline is made: 0 f32, 1 f16, 2 bf16, in an array of words.
// `widen(KIND, words[place(KIND, i)], i)` is element i. Needs pack.

fn place(kind: u32, i: u32) -> u32 {
    return select(i >> 1u, i, kind == 0u);
}

fn widen(kind: u32, word: u32, i: u32) -> f32 {
    if kind == 0u {
        return bitcast<f32>(word);
    }
    if kind == 1u {
        return half_at(word, i);
    }
    return brain_at(word, i);
}

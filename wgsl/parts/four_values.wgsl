// Values of a packed cache, four at a time. Needs pages, value8 (generated), VALUE_HEAD (key_pieces).

struct FourValues { a: vec2<u32>, b: vec2<u32>, c: vec2<u32>, d: vec2<u32> }

// Lane c's words of the four values that its part has from `first` on, none past the last that is stored, in the page
// whose first row is `page`.
fn four_values(page: u32, first: u32, last: u32, h: u32, c: u32) -> FourValues {
    let at = vec4<u32>(first) + vec4<u32>(0u, 1u, 2u, 3u) * (WG / LANES);
    let p = (min(at, vec4<u32>(last)) % PAGE + page) * params.value_words + h * VALUE_HEAD;
    return FourValues(value8(p.x, c), value8(p.y, c), value8(p.z, c), value8(p.w, c));
}

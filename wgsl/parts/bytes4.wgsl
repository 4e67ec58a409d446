// Fields that do not fill bytes, in bytes. Needs FIELD, their bits (codes_*).

// The lowest 4, one in each byte, in two steps: pairs to halves of the word, then each to its byte.
fn bytes4(bits: u32) -> u32 {
    let two = (1u << (2u * FIELD)) - 1u;
    let one = (1u << FIELD) - 1u;
    let pairs = (bits & two) | ((bits << (16u - 2u * FIELD)) & (two << 16u));
    return (pairs & (one * 0x00010001u)) | ((pairs << (8u - FIELD)) & (one * 0x01000100u));
}

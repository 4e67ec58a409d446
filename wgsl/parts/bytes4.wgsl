// Codes that do not fill bytes on their way into bytes.
// Needs FIELD, the bits of what goes into a byte: a code of 5 or 6 bits, or two of 2 or 3 (codes_*).

// The lowest 4 fields, one in each byte, in two steps: pairs to halves of the word, then each to its byte.
fn bytes4(bits: u32) -> u32 {
    let two = (1u << (2u * FIELD)) - 1u;
    let one = (1u << FIELD) - 1u;
    let pairs = (bits & two) | ((bits << (16u - 2u * FIELD)) & (two << 16u));
    return (pairs & (one * 0x00010001u)) | ((pairs << (8u - FIELD)) & (one * 0x01000100u));
}

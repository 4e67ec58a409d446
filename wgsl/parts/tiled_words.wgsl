// Where words of a packed cache are, whose rows lie one after another or in tiles.

// Rows of a tile.
override TILE_ROWS: u32 = 1u;

// Word w of a row of so many words, if rows of a tile have `each` side by side.
fn word_at(row: u32, words: u32, w: u32, each: u32) -> u32 {
    return (row / TILE_ROWS * words + w / each * each) * TILE_ROWS + row % TILE_ROWS * each + w % each;
}

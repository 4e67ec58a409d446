// Where rows of sequences lie in a cache of pages. Sequences count rows as if each had pages of its own, one
// sequence's after another's: logical rows. Needs table, which says what page of the cache each of these is in.

const PAGE: u32 = 128u;

// The first row of the page that a logical row is in.
fn page_of(logical: u32) -> u32 {
    return table[logical / PAGE] * PAGE;
}

fn row_at(logical: u32) -> u32 {
    return page_of(logical) + logical % PAGE;
}

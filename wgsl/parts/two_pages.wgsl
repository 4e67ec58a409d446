// Keys at most a page apart lie in two pages at most, which are looked up once for all of them. Needs pages.

// The first rows of the pages that logical rows first .. first + count, which the table has, are in.
fn pages_of(first: u32, count: u32, end: u32) -> vec2<u32> {
    return vec2<u32>(page_of(min(first, end - 1u)), page_of(min(first + count, end) - 1u));
}

// The row that logical row j is, not before `first`.
fn row_in(pages: vec2<u32>, first: u32, j: u32) -> u32 {
    return select(pages.y, pages.x, j / PAGE == first / PAGE) + j % PAGE;
}

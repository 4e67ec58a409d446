// A workgroup's even share of a weight's rows. Needs GATED, params.

// The first of its results, and how many it has.
fn own_results(group: u32, groups: u32) -> vec2<u32> {
    let count = params.rows / select(1u, 2u, GATED);
    let share = count / groups;
    let rest = count - share * groups;
    return vec2<u32>(group * share + min(group, rest), share + select(0u, 1u, group < rest));
}

// The row that is number r of a workgroup's: where results are gated, rows and their partners in turn.
fn row_at(begin: u32, r: u32, rows: u32) -> u32 {
    let local = min(r, rows - 1u);
    return begin + select(local, local / 2u + (local & 1u) * params.n, GATED);
}

// Attention of a token and all that stands before it: query and key heads are normed (where a model does that)
// and rotated, key and value go into the cache, y = softmax(scale q k^T) v over the keys that the token sees.
//
// Work split: workgroup (KV head and some of its query heads, split of the keys, token); how a workgroup's invocations
// share its keys stands in over_keys.
// Keys that this step writes are not read from the cache: who needs one makes it anew, rounded as the cache
// stores it. So no workgroup waits for another, and tokens of one sequence may come together, at consecutive
// positions.
// With one split the result is y; else, for attend_combine, sums per query head and split, and after all of
// them maximum and sum of weights of each.
// Parts: range_of, is_empty (found with key_range, first_new, pages); over_keys (over_keys with sums,
// by_floats, floats8, or over_tiles with by_fragments, halves_fragments, fragments; both with cache8_*, lanes_*);
// own_frequency (step_angles); head8, row_of, inverse_rms, turn8 (heads8); rows_for, keep_rows, raw_of, turned_query,
// turned_key, keep_made, keep_ready, is_alone, deliver_alone, with_new (rows with head_gains or no_head_gains, floats8 or
// queries_halves and greatest); deliver, deliver_none (meet with found_parts, found_teams). Bindings and q4, k4, v4 are
// generated, for queries, keys and values may be one array.
// f16, 32 heads of 128 over 8, between a model's other kernels, without attend_combine (2.2 us): on an NVIDIA H100
// (3.14 TB/s) 32768 keys 50.3 us (86% of what it can read), 16384 keys 28.2 us (77%), 2048 keys 9.2 us; on an H200
// (4.56 TB/s), by fragments, 35.8 (82%), 20.8 (71%), 7.6; without them 37.8, 22.8, 9.7. README.md beside this
// file has what was tried.

fn fetch_row(row: u32, rows: Rows, c: u32) -> mat2x4<f32> {
    return head8(row, rows.t, rows.h, rows.head + min(row, rows.count - 1u), c);
}

fn make_query(lane: u32, c: u32, row: u32, turn: Turn, r: Range) {
    keep_made(lane, c, row, turned_query(lane, c, row, turn), params.scale, r);
}

// Key or value.
fn make_new(lane: u32, c: u32, i: u32, r: Range, rows: Rows, turn: Turn) {
    let x = raw_of(HEADS + min(i, NEW - 1u), c);
    let inverse = inverse_rms(lane, x.own);
    var ready = x.own;
    if i == 0u {
        ready = turned_key(c, inverse, x, turn);
    }
    if i >= NEW {
        return;
    }
    let rounded = round8(ready);
    keep_ready(HEADS + i, c, eight(rounded));
    if rows.is_first && c < params.eights {
        let at = place_of(row_at(r.here.y + r.here.x), rows.h, c);
        if i == 0u {
            set_key8(at, rounded);
        } else {
            set_value8(at, rounded);
        }
    }
}

// The new pair of token i.
fn made_anew(lane: u32, c: u32, i: u32, rows: Rows) -> Pair {
    let raw = row_of(HEADS, i, rows.h, rows.head, c);
    let key = turned_key(c, inverse_rms(lane, raw.own), raw, turn8(i, c));
    return Pair(eight(round8(key)), eight(round8(row_of(HEADS + 1u, i, rows.h, rows.head, c).own)));
}

@compute @workgroup_size(WG)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) lane: u32,
) {
    let rows = rows_for(group);
    let c = lane % LANES;
    let part = lane / LANES;

    // Rows to make ready are fetched before keys and values, which come from further away: what is asked for later
    // comes later.
    let first_row = fetch_row(part, rows, c);
    let frequency = own_frequency(lane);
    // Else the table's words come from far away when a page is looked up.
    let touched = table[min(8u * lane, arrayLength(&table) - 1u)];
    let r = range_of(rows.t, group.y, groups.y);
    if is_empty(r) {
        deliver_none(lane, rows.t, rows.head, rows.count, group.y, groups.y);
        return;
    }
    // Positions and pages are below 2^31.
    nothing = ((r.here.x + lane) | touched) >> 31u;
    let page = page_at(r, r.low + 4u * part);
    keep_rows(part, c, rows, first_row);

    var found = over_keys(lane, c, r, page, rows, frequency);
    if r.fresh {
        // Rows are ready, where no keys are stored as well.
        workgroupBarrier();
        if is_alone(r) {
            deliver_alone(lane, c, rows, group.y, groups.y);
            return;
        }
        found = with_new(lane, c, r, rows, found);
        // Sums meet where rows stand.
        workgroupBarrier();
    }
    deliver(lane, found, rows.t, rows.head, rows.count, group.y, groups.y);
}

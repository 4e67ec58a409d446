// attend over a packed cache: query and key heads are normed (where a model does that) and rotated; key and value are
// coded and go into the cache; sums of coded values by softmax(scale q k^T), in the basis that the cache keeps.
//
// Work split: as attend's; codes are unpacked in registers, and scales of groups multiply sums of products and weights.
// Keys that this step writes are not read from the cache: who needs one makes it anew, as attend does.
// 32 heads of 128 over 8, without attend_packed_combine (2.5 us): on an NVIDIA H200, by fragments, 32768 keys of 8 bits
// 22.6 us, of 4 bits 17.0, attend over f16 35.7; 16384 keys 14.5, 11.5 and 20.8; 2048 keys 8.5, 7.7 and 7.7. As whole
// numbers 32768 keys 31.0 and 27.8. README.md beside this file has what was tried.
// For attend_packed_combine: sums per query head and split, and after all of them maximum and sum of weights.
// Parts: range_of, is_empty (found with key_range, first_new, pages); over_keys (over_tiles with keys_int, by_integers,
// raised8, dot_planes, or over_keys with by_floats, packed_floats, centred_*, both with sums and scales8; or over_tiles with
// by_fragments, codes_fragments, fragments; all with packed8, codes8, lanes_*); own_frequency (step_angles); head8, row_of,
// inverse_rms, turn8, times (heads8); basis8, keep_factors, kept_factors (bases8, or no_bases8 with signs); rotated8,
// transformed8 (walsh8 with walsh4); coded (fresh8); store_fresh (store_fresh); rows_for, keep_rows, raw_of, turned_query,
// turned_key, keep_made, keep_ready, is_alone, deliver_alone, with_new (rows with head_gains or no_head_gains, queries_int,
// queries_halves or packed_floats); deliver, deliver_none (meet with found_parts, found_teams).
// Bindings, q4, k4, v4, key8, value8, key_word and the like are generated, for formats differ.

// Rows of a basis.
const KEY_CENTRES: u32 = 0u;
const KEYS: u32 = 1u;
const QUERIES: u32 = 2u;
const VALUES: u32 = 3u;

// Whether a row is a value: after the queries come key and value, then perhaps a neighbour's.
fn has_value(row: u32) -> bool {
    return row > HEADS && ((row - HEADS) & 1u) == 1u;
}

// The KV head that a row is of.
fn kv_head_of(row: u32, h: u32) -> u32 {
    return select(h, min(h + 1u, params.kv_heads - 1u), row >= HEADS + 2u);
}

fn fetch_row(row: u32, rows: Rows, c: u32) -> mat2x4<f32> {
    let kind = select(row, select(HEADS, HEADS + 1u, has_value(row)), row > HEADS);
    return head8(kind, rows.t, kv_head_of(row, rows.h), rows.head + min(row, rows.count - 1u), c);
}

fn make_query(lane: u32, c: u32, row: u32, turn: Turn, r: Range) {
    let ready = times(kept_factors(c), turned_query(lane, c, row, turn));
    keep_made(lane, c, row, transformed8(lane, ready), params.scale * params.norm, r);
}

// Key, value, and perhaps a neighbour's: the i-th of them.
fn make_new(lane: u32, c: u32, i: u32, r: Range, rows: Rows, turn: Turn) {
    let row = HEADS + min(i, NEW - 1u);
    let is_value = has_value(row);
    let h = kv_head_of(row, rows.h);
    let centres = basis8(KEY_CENTRES, h, c);
    let factors = basis8(select(KEYS, VALUES, is_value), h, c);
    let x = raw_of(row, c);
    let inverse = inverse_rms(lane, x.own);
    var ready = x.own;
    if !is_value {
        ready = turned_key(c, inverse, x, turn) - centres;
    }
    let codes = coded(lane, c, rotated8(lane, times(factors, ready)), is_value);
    if i < NEW {
        let at = 2u * (i * LANES + c);
        fresh_codes[at] = codes.first;
        fresh_codes[at + 1u] = codes.last;
        if c % 8u == 0u && c < params.eights {
            fresh_scales[i * 4u + c / 8u] = codes.scale;
        }
    }
    if i < 2u {
        keep_ready(row, c, codes.stands_for);
    }
}

// The new pair of token i.
fn made_anew(lane: u32, c: u32, i: u32, rows: Rows) -> Pair {
    let raw = row_of(HEADS, i, rows.h, rows.head, c);
    let ready = turned_key(c, inverse_rms(lane, raw.own), raw, turn8(i, c)) - basis8(KEY_CENTRES, rows.h, c);
    let key = times(basis8(KEYS, rows.h, c), ready);
    let value = times(basis8(VALUES, rows.h, c), row_of(HEADS + 1u, i, rows.h, rows.head, c).own);
    let key_codes = coded(lane, c, rotated8(lane, key), false);
    let value_codes = coded(lane, c, rotated8(lane, value), true);
    return Pair(key_codes.stands_for, value_codes.stands_for);
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

    // Rows to make ready are fetched first, as in attend.
    let first_row = fetch_row(part, rows, c);
    let factors = basis8(QUERIES, rows.h, c);
    let frequency = own_frequency(lane);
    let r = range_of(rows.t, group.y, groups.y);
    if is_empty(r) {
        deliver_none(lane, rows.t, rows.head, rows.count, group.y, groups.y);
        return;
    }
    if part == 0u {
        keep_factors(c, factors);
    }
    keep_rows(part, c, rows, first_row);
    // Positions are below 2^31, frequencies finite. What has been asked for by now is waited for before a page is looked
    // up: else angles, which are made meanwhile, would wait for that as well.
    nothing = ((r.here.x + lane) >> 31u) | u32(abs(frequency) > 3.0e38);
    let page = page_at(r, (r.low + 4u * part) | nothing);

    var found = over_keys(lane, c, r, page, rows, frequency);
    if r.fresh {
        let row = row_at(r.here.y + r.here.x);
        // Rows are ready, where no keys are stored as well.
        workgroupBarrier();
        if rows.is_first {
            // By the last invocations, for the first have query heads.
            store_fresh(WG - 1u - lane, rows.h, row);
        }
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

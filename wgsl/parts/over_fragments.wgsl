// over_keys by products of fragments: 32 neighbours, a team, take 16 keys at a time, a tile. Lane 4 g + t
// reads shares of keys g and g + 8, and of values t, t + 4, t + 8 and t + 12.
// Needs Range, Found, page_at, nothing (found); STEP (key_range); PAGE (pages); together (lanes_*); Own, with_rows
// (queries_halves); Keys, keys_at, arrived_with, scores_of, Values, values_at (codes_fragments, halves_fragments);
// nothing_yet, with_values, found_by (by_fragments); Rows, row_count (rows); make_rows of the kernel.

// Where a tile is: its first row, and how far from it the last is that may be read.
struct Place { row: u32, most: u32 }

// All stored keys; `first_page` is that of the first. Values are on their way for a whole turn, keys from the scores of the
// tile before on, as in over_packed, and rows are made ready as there.
fn over_keys(lane: u32, c: u32, r: Range, first_page: u32, rows: Rows) -> Found {
    let h = rows.h;
    let makers = LANES * row_count(r);
    let makes = together(lane < makers);
    let is_half = together(lane < (makers + WG) / 2u);
    var own = Own();
    var x = nothing_yet();
    var keys_here = Keys();
    var next_values = Values();
    var next_page = first_page;
    var at = r.low;
    loop {
        let is_first = at == r.low;
        let tries_scores = is_first && !makes && is_half;
        let tries_values = is_first && !makes && !is_half;
        let j = at + 16u * (lane / 32u);
        let arrived = arrived_with(keys_here) & nothing;
        let values_here = next_values;
        let place = Place((next_page * PAGE + min(j, r.last) % PAGE) | arrived, max(j, r.last) - j);
        if at < r.stored {
            next_values = values_at(place, h, lane);
            next_page = page_at(r, j + STEP);
        } else {
            next_values = Values();
        }
        if at <= r.low + STEP {
            // Angles are there; then rows are.
            workgroupBarrier();
            own = with_rows(lane);
        }
        var score = vec2<f32>();
        if !is_first || tries_scores {
            score = scores_of(keys_here, own, h, lane);
        }
        if at < r.stored {
            keys_here = keys_at(place, h, lane);
        } else {
            keys_here = Keys();
        }
        if !is_first || tries_values {
            x = with_values(x, score, values_here, j - STEP, r, h, lane);
        }
        if is_first && makes {
            make_rows(lane, c, r, rows);
        }
        at += STEP;
        if at >= max(r.stored, r.low) + STEP {
            break;
        }
    }
    return found_by(x, lane, c);
}

// over_keys where packed keys are multiplied as whole numbers: parts take keys and values eight at a time, a tile, which
// spares half of what is done once a tile, and each lane reads its queries once for two keys.
// Needs Range, Found, page_at (found); STEP (key_range); PAGE (pages); together (lanes_*); Keys, keys_at, Score, scores_of
// (keys_int); Values, values_at, nothing_yet, with_values, found_by (by_integers); Own, own_of_lane, with_rows
// (queries_int); nothing (found); Rows, row_count (rows); make_rows of the kernel.

// Keys that a part takes at once.
const TILE: u32 = 8u;

// All stored keys; `first_page` is that of a part's first. Values are on their way for a whole turn, keys, whose registers
// the scores of the tile before need, from these on. NVIDIA's compiler counts all that is on its way together: who waits
// for one waits for all. So a turn begins by waiting once, and only then more is asked for: `arrived` is known no sooner,
// and addresses and sums of the turn hang on it. Conditions keep what is fetched in front of sums. While the first tile
// is on its way some invocations make rows ready, the others go through the loop with a tile of nothing, as in the
// other over_keys.
fn over_keys(lane: u32, c: u32, r: Range, first_page: u32, rows: Rows) -> Found {
    let h = rows.h;
    let makers = LANES * row_count(r);
    let makes = together(lane < makers);
    let is_half = together(lane < (makers + WG) / 2u);
    var own = own_of_lane(lane);
    var x = nothing_yet();
    var keys_here = Keys();
    var next_values = Values();
    var next_page = first_page;
    var at = r.low;
    loop {
        let is_first = at == r.low;
        let tries_scores = is_first && !makes && is_half;
        let tries_values = is_first && !makes && !is_half;
        let j = at + TILE * (lane / LANES);
        let arrived = keys_here.near.scales & nothing;
        let values_here = next_values;
        let row = (next_page * PAGE + j % PAGE) | arrived;
        if at < r.stored {
            next_values = values_at(row, h, c);
            next_page = page_at(r, j + STEP);
        } else {
            next_values = Values();
        }
        if at <= r.low + STEP {
            // Angles are there; then rows are.
            workgroupBarrier();
            own = with_rows(own, c);
        }
        var score = Score();
        if !is_first || tries_scores {
            score = scores_of(keys_here, own, arrived, h, c);
        }
        if at < r.stored {
            keys_here = keys_at(row, h, c);
        } else {
            keys_here = Keys();
        }
        if !is_first || tries_values {
            x = with_values(x, score, values_here, j - STEP, r, h, c);
        }
        if is_first && makes {
            make_rows(lane, c, r, rows);
        }
        at += STEP;
        if at >= max(r.stored, r.low) + STEP {
            break;
        }
    }
    return found_by(x, c);
}

// over_keys of neighbours that take a tile of keys at a time, a part of eight or 32 neighbours of 16, in the same way: as whole
// numbers, or by products of fragments.
// Needs Range, page_at, nothing (found); Found (found_parts, found_teams); STEP (key_range); PAGE (pages); together
// (lanes_*); Own, with_rows (queries_int, queries_halves); tile_of (keys_int, by_fragments); Keys, keys_at, arrived_with,
// Score, scores_of (keys_int, or codes_fragments, halves_fragments); Values, values_at (by_integers, or codes_fragments,
// halves_fragments); nothing_yet, with_values, found_by (by_integers, by_fragments); Rows, maker_count, make_rows (rows);
// make_angles (step_angles).

// Whether keys are multiplied by queries as they stand ready (rows); else only keys of this step are.
const READ_READY: bool = false;

// Where a tile is: its first row, and how far from it the last is that may be read.
struct Place { row: u32, most: u32 }

// All stored keys; `first_page` is that of a part's first. Values are on their way for a whole turn, keys, whose registers
// the scores of the tile before need, from these on. NVIDIA's compiler counts all that is on its way together: who waits
// for one waits for all. So a turn begins by waiting once, and only then more is asked for: `arrived` is known no sooner,
// and addresses and sums of the turn hang on it. Conditions keep what is fetched in front of sums; where nothing is, a tile
// that is not seen stays. While the first tile is on its way some invocations make rows ready, the others go through the
// loop with a tile of nothing, as in the other over_keys; angles come before that, for rows wait for them. `frequency` is
// that of a lane's first angle.
fn over_keys(lane: u32, c: u32, r: Range, first_page: u32, rows: Rows, frequency: f32) -> Found {
    make_angles(lane, r.here, frequency);
    let h = rows.h;
    let makers = LANES * maker_count(r);
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
        let j = at + tile_of(lane);
        let arrived = arrived_with(keys_here) & nothing;
        let values_here = next_values;
        let place = Place((next_page * PAGE + min(j, r.last) % PAGE) | arrived, max(j, r.last) - j);
        if at < r.stored {
            next_values = values_at(place, h, lane);
            next_page = page_at(r, j + STEP);
        }
        if at <= r.low + STEP {
            // Angles are there; then rows are.
            workgroupBarrier();
            own = with_rows(lane);
        }
        var score = Score();
        if !is_first || tries_scores {
            score = scores_of(keys_here, own, arrived, h, lane);
        }
        if at < r.stored {
            keys_here = keys_at(place, h, lane);
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

// Attention of up to HEADS query heads over stored keys, a workgroup's share of them. WG / LANES parts take keys, four at
// a time, a tile, and every query head uses a key and a value once loaded. Maxima and sums stay in registers, and no
// barrier stands between keys.
// Needs Range, page_after (found); Found (found_parts); STEP (key_range); PAGE (pages); together (lanes_*); Tile, tile_at,
// Score, Own, own_of_lane, with_rows, nothing_yet, scores_of, with_values, found_by (by_floats); Rows, maker_count,
// make_rows (rows); make_angles (step_angles).

// Whether keys are multiplied by queries as they stand ready (rows); else only keys of this step are.
const READ_READY: bool = true;

// All stored keys; `first_page` is that of a part's first, `frequency` that of a lane's first angle. A tile is on its way
// while the one before is used. It takes that one's place only when all sums are made: NVIDIA's compiler would copy it
// sooner, and a copy of what is on its way waits for it. While the first is on its way some invocations make rows ready, as
// many as there are rows, and the others go through the loop with a tile of nothing, some through one half of it, some
// through the other: so that its code is there when it is wanted.
fn over_keys(lane: u32, c: u32, r: Range, first_page: u32, rows: Rows, frequency: f32) -> Found {
    make_angles(lane, r.here, frequency);
    let h = rows.h;
    let makers = LANES * maker_count(r);
    let makes = together(lane < makers);
    let tries_scores = together(lane < (makers + WG) / 2u);
    let tries_values = together(lane >= (makers + WG) / 2u);
    var own = own_of_lane(lane);
    var x = nothing_yet();
    var tile = Tile();
    var page = first_page;
    var next_page = first_page;
    var at = r.low;
    loop {
        let is_first = at == r.low;
        let j = at + 4u * (lane / LANES);
        if is_first || at % PAGE == 0u {
            page = next_page;
            next_page = page_after(r, j);
        }
        let next = tile_at(page, j, r.last, h, c);
        if at <= r.low + STEP {
            // Angles are there; then rows are.
            workgroupBarrier();
            own = with_rows(own, c);
        }
        if is_first && makes {
            make_rows(lane, c, r, rows);
        } else {
            var score = Score();
            if !is_first || tries_scores {
                score = scores_of(tile, own, lane, h, c);
            }
            if !is_first || tries_values {
                x = with_values(x, score, tile, j - STEP, r, own, lane, h, c);
            }
        }
        // Sums are never so large.
        if !(x.a[1].w > 3.0e38) {
            tile = next;
        }
        at += STEP;
        if at >= max(r.stored, r.low) + STEP {
            break;
        }
    }
    return found_by(x, lane, c);
}

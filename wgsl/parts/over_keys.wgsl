// Attention of up to HEADS query heads over stored keys, a workgroup's share of them. WG / LANES parts take keys, four at
// a time, a tile, and every query head uses a key and a value once loaded. Maxima and sums stay in registers, and no
// barrier stands between keys.
// Needs Range, Found, page_at, page_after (found); STEP (key_range); PAGE (pages); Tile, tile_at, either, Sums,
// nothing_yet, own_of_lane, with_tile, found_by (by_floats, by_integers).

// A part's first tile, the page it is in, and the next.
struct Ahead { tile: Tile, page: u32, next_page: u32 }

// It can be on its way while queries are made ready.
fn fetch_ahead(r: Range, part: u32, h: u32, c: u32) -> Ahead {
    let j = r.low + 4u * part;
    let page = page_at(r, j);
    return Ahead(tile_at(page, j, r.last, h, c), page, page_after(r, j));
}

// Sums with one value more, and these weights of it.
fn with_value(x: Sums, weights: vec4<f32>, value: mat2x4<f32>) -> Sums {
    return Sums(
        x.a + weights.x * value,
        x.b + weights.y * value,
        x.c + weights.z * value,
        x.d + weights.w * value,
        x.greatest,
        x.total,
    );
}

// Sums of values by a factor for each head.
fn rescaled(x: Sums, by: vec4<f32>) -> Sums {
    return Sums(by.x * x.a, by.y * x.b, by.z * x.c, by.w * x.d, x.greatest, x.total);
}

// All stored keys. A tile is on its way while the one before is used. It takes that one's place only when all sums are
// made: NVIDIA's compiler would copy it sooner, and a copy of what is on its way waits for it.
fn over_keys(lane: u32, h: u32, c: u32, r: Range, ahead: Ahead) -> Found {
    let own = own_of_lane(lane, c);
    var x = nothing_yet();
    var tile = ahead.tile;
    var page = ahead.page;
    var next_page = ahead.next_page;
    for (var first = r.low; first < r.stored; first += STEP) {
        let j = first + 4u * (lane / LANES);
        if (first + STEP) % PAGE == 0u {
            page = next_page;
            next_page = page_after(r, j + STEP);
        }
        let next = tile_at(page, j + STEP, r.last, h, c);
        x = with_tile(x, j, tile, r, own, lane, h, c);
        // Sums are never so large.
        tile = either(next, tile, x.a[1].w > 3.0e38);
    }
    return found_by(x, lane, c);
}

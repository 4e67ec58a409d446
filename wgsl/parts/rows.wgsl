// What attend and attend_packed do with the rows of a workgroup: query heads of a token, its new key and value. They wait
// in workgroup memory, as they come and once they are ready, so that none takes registers while keys are gone through.
// Needs Range, HEADS, TOKENS, WG, LANES (found); Found, with_key, TOGETHER (found_parts, found_teams); first_new; kept8,
// keep8, put_found, MEETING, PARTS (meet); others, other_of, over_lanes, inverse_rms, gains, turn8, turned (heads8);
// q_gain8, k_gain8 (head_gains, no_head_gains); dot8 (dot8); together (lanes_*); keep_query (floats8, queries_int,
// queries_halves, packed_floats); READ_READY (over_keys, over_tiles); fetch_row, make_query, make_new, made_anew of the
// kernel.

// Keys and values that a workgroup makes anew: the token's, perhaps a neighbour's.
override NEW: u32 = 2u;

// Of token t and KV head h `count` query heads from `head` on, of which HEADS at most are this workgroup's; `is_first` if
// they are the KV head's first.
struct Rows { t: u32, h: u32, head: u32, count: u32, is_first: bool }

fn rows_for(group: vec3<u32>) -> Rows {
    let h = group.x / params.chunks;
    let heads = params.heads / params.kv_heads;
    let first_head = (group.x % params.chunks) * HEADS;
    return Rows(group.z, h, h * heads + first_head, heads - first_head, first_head == 0u);
}

// The first part that makes what is new.
override PAIRS: u32 = HEADS;

// Parts that make rows: who has no new key makes queries only.
fn maker_count(r: Range) -> u32 {
    return select(HEADS, PAIRS + NEW, r.fresh);
}

// All rows as they come; `own` is the one that has the part's number.
fn keep_rows(part: u32, c: u32, rows: Rows, own: mat2x4<f32>) {
    if part < HEADS + NEW {
        keep_raw(part, c, own);
    }
    for (var row = part + WG / LANES; row < HEADS + NEW; row += WG / LANES) {
        keep_raw(row, c, fetch_row(row, rows, c));
    }
}

// A head that one part made ready for all.
fn made_ready(row: u32, c: u32) -> mat2x4<f32> {
    return kept8(2u * (row * LANES + c));
}

fn keep_ready(row: u32, c: u32, x: mat2x4<f32>) {
    keep8(2u * (row * LANES + c), x);
}

// A query, q times `unit`: as stored keys are multiplied by it, and as it stands for who multiplies by that; all call.
fn keep_made(lane: u32, c: u32, row: u32, q: mat2x4<f32>, unit: f32, r: Range) {
    keep_query(lane, c, row, q, unit);
    if row < HEADS && (READ_READY || r.fresh) {
        keep_ready(row, c, unit * q);
    }
}

// A head as it comes, with the values that its own turn with.
fn raw_of(row: u32, c: u32) -> Pairs {
    let first = MEETING / 2u + 2u * row * LANES;
    let own = kept8(first + 2u * c);
    return Pairs(own, others(own, kept8(first + 2u * other_of(c))));
}

fn keep_raw(row: u32, c: u32, x: mat2x4<f32>) {
    keep8(MEETING / 2u + 2u * (row * LANES + c), x);
}

// A query, normed and turned; all call.
fn turned_query(lane: u32, c: u32, row: u32, turn: Turn) -> mat2x4<f32> {
    let x = raw_of(min(row, HEADS - 1u), c);
    let gain = gains(q_gain8(c), q_gain8(other_of(c)));
    return inverse_rms(lane, x.own) * turned(x, gain, turn);
}

// A key, normed by `inverse` (inverse_rms) and turned.
fn turned_key(c: u32, inverse: f32, x: Pairs, turn: Turn) -> mat2x4<f32> {
    return inverse * turned(x, gains(k_gain8(c), k_gain8(other_of(c))), turn);
}

// This lane's share of the scores of a key with each query head that stands ready.
fn ready_dots(c: u32, key: mat2x4<f32>) -> vec4<f32> {
    var score = vec4<f32>(dot8(made_ready(0u, c), key), 0.0, 0.0, 0.0);
    if HEADS > 1u { score.y = dot8(made_ready(1u, c), key); }
    if HEADS > 2u { score.z = dot8(made_ready(2u, c), key); }
    if HEADS > 3u { score.w = dot8(made_ready(3u, c), key); }
    return score;
}

// The scores of a new key with the queries that stand ready; all call, all get them.
fn fresh_scores(lane: u32, c: u32, key: mat2x4<f32>) -> vec4<f32> {
    return over_lanes(lane, ready_dots(c, key));
}

// A new key and its value, as the cache stores them.
struct Pair { key: mat2x4<f32>, value: mat2x4<f32> }

// Whether all that a workgroup has is its token's own key.
fn is_alone(r: Range) -> bool {
    return r.low >= r.high && first_new(r.here) == r.here.x;
}

// What such a workgroup finds: the value, relative to each query head's score. A part takes a head.
fn deliver_alone(lane: u32, c: u32, rows: Rows, split: u32, splits: u32) {
    let head = lane / LANES;
    if together(head < HEADS) {
        let score = over_lanes(lane, vec4<f32>(dot8(made_ready(min(head, HEADS - 1u), c), made_ready(HEADS, c)))).x;
        if head < min(HEADS, rows.count) && c < params.eights {
            let value = made_ready(HEADS + 1u, c);
            let row = rows.t * params.heads + rows.head + head;
            put_found(row, 2u * c, split, splits, value[0], score, 1.0);
            put_found(row, 2u * c + 1u, split, splits, value[1], score, 1.0);
        }
    }
}

// With the keys of this step: the token's own, then those of other tokens that come before it. Each counts once.
fn with_new(lane: u32, c: u32, r: Range, rows: Rows, before: Found) -> Found {
    let own = lane / TOGETHER;
    let own_score = fresh_scores(lane, c, made_ready(HEADS, c));
    var found = with_key(lane, before, own_score, made_ready(HEADS + 1u, c), own == 0u);
    for (var i = 0u; TOKENS > 1u && i < TOKENS; i++) {
        let position = places[i].x;
        if places[i].y != r.here.y || position < r.start || position >= r.here.x {
            continue;
        }
        let pair = made_anew(lane, c, i, rows);
        let score = fresh_scores(lane, c, pair.key);
        found = with_key(lane, found, score, pair.value, own == i % (WG / TOGETHER));
    }
    return found;
}

// Each part makes one: what is new other parts than queries where there are enough, for either is short code then.
fn make_rows(lane: u32, c: u32, r: Range, rows: Rows) {
    let turn = turn8(rows.t, c);
    let part = lane / LANES;
    if together(part < HEADS) {
        make_query(lane, c, part, turn, r);
    }
    if r.fresh {
        let i = (part + PARTS - PAIRS % PARTS) % PARTS;
        if together(i < NEW) {
            make_new(lane, c, i, r, rows, turn);
        }
    }
}

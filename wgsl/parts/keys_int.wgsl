// Scores of packed keys for by_integers: a quarter of a part's LANES invocations, a team, multiplies two of its eight keys,
// four apart, 32 values a lane, so that sums over lanes are short; and each lane ends up with their scores of one head
// (of two, if a team is two lanes).
// Needs Words, key32 (generated); group_of, key_scales, scale_in (scales8); planes, Own (queries_int);
// dot_planes (dot_planes); subgroups (lanes_subgroup).

override TEAM: u32 = LANES / 4u;
// Lanes of a team at this distance have heads two further on, or the next; 0 where a lane has both.
override TWO_ON: u32 = TEAM / 2u;
override ONE_ON: u32 = TEAM / 4u;

// A lane's 32 values of a key, and the word that their scale is in.
struct Share { words: Words, scales: u32 }

fn share_of(row: u32, h: u32, l: u32) -> Share {
    let at = row * params.key_words;
    return Share(key32(at + h * KEY_HEAD, l), key_scales(at, group_of(h, 4u * l)));
}

// A team's keys: its own of the part's first four, and of the last.
struct Keys { near: Share, far: Share }

// Where a part's keys are among those that are taken at once.
fn tile_of(lane: u32) -> u32 {
    return 8u * (lane / LANES);
}

fn keys_at(p: Place, h: u32, lane: u32) -> Keys {
    let c = lane % LANES;
    let own = p.row + c / TEAM;
    return Keys(share_of(own, h, c % TEAM), share_of(own + 4u, h, c % TEAM));
}

// A lane's 32 codes of a key, four in a word: the first and the last four of each 8. Those of 8 bits are less their zero.
struct Bytes { first: vec4<u32>, last: vec4<u32> }

fn bytes_of(words: Words) -> Bytes {
    if KEY_BITS == 8u {
        let x = words.a ^ vec4<u32>(0x80808080u);
        let y = words.b ^ vec4<u32>(0x80808080u);
        return Bytes(vec4<u32>(x.xz, y.xz), vec4<u32>(x.yw, y.yw));
    }
    return Bytes(words.a & vec4<u32>(0x0f0f0f0fu), (words.a >> vec4<u32>(4u)) & vec4<u32>(0x0f0f0f0fu));
}

// This lane's shares of its keys' scores with one query head, but for scales.
fn whole_scores(head: u32, l: u32, near: Bytes, far: Bytes, zero: i32) -> vec2<f32> {
    let first = head * LANES + l;
    let p0 = planes[first];
    let p1 = planes[first + TEAM];
    let p2 = planes[first + 2u * TEAM];
    let p3 = planes[first + 3u * TEAM];
    return vec2<f32>(
        f32(dot_planes(near.first, near.last, p0, p1, p2, p3) + zero),
        f32(dot_planes(far.first, far.last, p0, p1, p2, p3) + zero),
    );
}

// With all heads.
struct Shares { near: vec4<f32>, far: vec4<f32> }

fn shares(zeros: vec4<i32>, k: Keys, h: u32, l: u32) -> Shares {
    let near = bytes_of(k.near.words);
    let far = bytes_of(k.far.words);
    var heads = mat4x2<f32>();
    heads[0] = whole_scores(0u, l, near, far, zeros.x);
    if HEADS > 1u { heads[1] = whole_scores(1u, l, near, far, zeros.y); }
    if HEADS > 2u { heads[2] = whole_scores(2u, l, near, far, zeros.z); }
    if HEADS > 3u { heads[3] = whole_scores(3u, l, near, far, zeros.w); }
    let group = group_of(h, 4u * l);
    return Shares(
        scale_in(k.near.scales, group) * vec4<f32>(heads[0].x, heads[1].x, heads[2].x, heads[3].x),
        scale_in(k.far.scales, group) * vec4<f32>(heads[0].y, heads[1].y, heads[2].y, heads[3].y),
    );
}

// Sums over a team, of which each lane keeps those of its own heads.
fn team_sums(l: u32, x: vec4<f32>) -> vec2<f32> {
    let upper = (l & TWO_ON) != 0u;
    var two = x.xy;
    if HEADS > 2u {
        two = select(x.xy, x.zw, upper) + subgroupShuffleXor(select(x.zw, x.xy, upper), TWO_ON);
    } else {
        two += subgroupShuffleXor(two, TWO_ON);
    }
    if TEAM == 2u {
        return two;
    }
    let odd = (l & ONE_ON) != 0u;
    var one = two.x;
    if HEADS > 1u {
        one = select(two.x, two.y, odd) + subgroupShuffleXor(select(two.y, two.x, odd), ONE_ON);
    } else {
        one += subgroupShuffleXor(one, ONE_ON);
    }
    for (var distance = ONE_ON / 2u; distance > 0u; distance /= 2u) {
        one += subgroupShuffleXor(one, distance);
    }
    return vec2<f32>(one, 0.0);
}

// Of a lane's keys and its own heads.
struct Score { near: vec2<f32>, far: vec2<f32> }

fn arrived_with(k: Keys) -> u32 {
    return k.near.scales;
}

// `arrived` is 0.
fn scores_of(k: Keys, own: Own, arrived: u32, h: u32, lane: u32) -> Score {
    let l = lane % TEAM;
    var zeros = own.zeros;
    zeros.x += i32(arrived);
    let own_shares = shares(zeros, k, h, l);
    return Score(own.unit * team_sums(l, own_shares.near), own.unit * team_sums(l, own_shares.far));
}

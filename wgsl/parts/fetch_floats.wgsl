// What an invocation of a team has of a row of dense weights: units member, member + TEAM, .. of 8 values, SPAN of them.
// Parts: Raw8, raw8 (weight_*).

// 1, 2 or 4.
override SPAN: u32 = 2u;

struct Fetched { a: Raw8, b: Raw8, c: Raw8, d: Raw8 }

fn fetch(row: u32, member: u32) -> Fetched {
    let last = params.units - 1u;
    var w: Fetched;
    w.a = raw8(row, min(member, last));
    if SPAN > 1u {
        w.b = raw8(row, min(member + TEAM, last));
    }
    if SPAN > 2u {
        w.c = raw8(row, min(member + 2u * TEAM, last));
        w.d = raw8(row, min(member + 3u * TEAM, last));
    }
    return w;
}

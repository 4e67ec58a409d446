//! The rules around the attention of few tokens: norms of heads, rotation and writing the cache go into it.

use super::fuse::{Matcher, Rewrite};
use super::graph::Kind;
use crate::op::Op;
use crate::ops::{Attend, AttendPacked, Attention, KvPack, KvWrite, RmsNorm, Rope, Rotate};
use std::sync::Arc;

/// `attention(rope(norm(q)), write(keys, rope(norm(k))), write(values, v))` with or without norms, of three
/// arrays or of three parts of one.
pub(super) fn attend(m: &Matcher<'_>, at: usize) -> Option<Rewrite> {
    let (attention, inputs) = m.op::<Attention>(at)?;
    let [q, keys, values, places, table] = *inputs else { return None };
    let (keys, k) = written(m, keys, [places, table])?;
    let (values, v) = written(m, values, [places, table])?;
    let before = before(m, [q, k, v], places, attention, m.spec(at).axis(1))?;
    let Heads { rope, norm, inv_freq, .. } = before.q;
    let mut inputs = before.arrays;
    inputs.extend([keys, values, places, table, inv_freq]);
    inputs.extend(before.gains);
    let (attention, rope) = (attention.clone(), rope.clone());
    Some((
        Arc::new(Attend { attention, rope, norm: norm.map(|(eps, _)| eps), joined: before.joined }),
        inputs,
    ))
}

/// The same with a packed cache: queries are rotated into its basis, results out of it.
pub(super) fn attend_packed(m: &Matcher<'_>, at: usize) -> Option<Rewrite> {
    let (Rotate { inverse: true }, inputs) = m.op::<Rotate>(at)? else { return None };
    let (y, basis) = (inputs[0], inputs.get(1).copied());
    let (attention, inputs) = m.op::<Attention>(y)?;
    let [q, keys, values, places, table] = *inputs else { return None };
    let (Rotate { inverse: false }, of_q) = m.op::<Rotate>(q)? else { return None };
    let (keys, k) = packed(m, keys, [places, table], basis)?;
    let (values, v) = packed(m, values, [places, table], basis)?;
    if m.uses(y) != 1 || of_q.get(1).copied() != basis {
        return None;
    }
    let before = before(m, [of_q[0], k, v], places, attention, m.spec(at).axis(1))?;
    let Heads { rope, norm, inv_freq, .. } = before.q;
    let mut inputs = before.arrays;
    inputs.extend([keys, values, places, table, inv_freq]);
    inputs.extend(before.gains);
    inputs.extend(basis);
    let (attention, rope) = (attention.clone(), rope.clone());
    let norm = norm.map(|(eps, _)| eps);
    Some((
        Arc::new(AttendPacked { attention, rope, norm, joined: before.joined, basis: basis.is_some() }),
        inputs,
    ))
}

/// What stands before an attention: arrays of queries, keys and values, what is done to queries, gains of norms.
struct Before<'a> {
    arrays: Vec<usize>,
    /// Whether that is one array.
    joined: bool,
    q: Heads<'a>,
    gains: Vec<usize>,
}

/// What stands before queries, keys and values, if keys are made like queries.
fn before<'a>(
    m: &Matcher<'a>,
    [q, k, v]: [usize; 3],
    places: usize,
    attention: &Attention,
    d: usize,
) -> Option<Before<'a>> {
    let (q, k, v) = (Heads::of(m, q)?, Heads::of(m, flat(m, k))?, Columns::of(m, v)?);
    let alike = q.rope.words() == k.rope.words()
        && [q.places, k.places] == [places; 2]
        && q.inv_freq == k.inv_freq
        && q.norm.map(|(eps, _)| eps) == k.norm.map(|(eps, _)| eps);
    let (q_width, kv_width) = (attention.heads * d, attention.kv_heads * d);
    let [from_q, from_k, from_v] = [&q.from, &k.from, &v];
    let is = |x: &Columns, first, width, pitch| (x.first, x.width, x.pitch) == (first, width, pitch);
    let n = q_width + 2 * kv_width;
    let joined = [from_k.array, from_v.array] == [from_q.array; 2]
        && is(from_q, 0, q_width, n)
        && is(from_k, q_width, kv_width, n)
        && is(from_v, q_width + kv_width, kv_width, n);
    let separate = is(from_q, 0, q_width, q_width)
        && is(from_k, 0, kv_width, kv_width)
        && is(from_v, 0, kv_width, kv_width);
    if !alike || !(joined || separate) {
        return None;
    }
    let mut arrays = vec![from_q.array];
    if !joined {
        arrays.extend([from_k.array, from_v.array]);
    }
    let gains = [q.norm, k.norm].into_iter().flatten().map(|(_, gain)| gain).collect();
    Some(Before { arrays, joined, q, gains })
}

/// Heads that are rotated, and normed or not, as they stand in the output of a linear layer.
struct Heads<'a> {
    rope: &'a Rope,
    places: usize,
    inv_freq: usize,
    /// Epsilon and gain.
    norm: Option<(f32, usize)>,
    from: Columns,
}

impl<'a> Heads<'a> {
    fn of(m: &Matcher<'a>, at: usize) -> Option<Self> {
        let (rope, inputs) = m.op::<Rope>(at)?;
        let [x, places, inv_freq] = *inputs else { return None };
        let (x, norm) = match m.op::<RmsNorm>(x) {
            Some((norm, inputs)) => (inputs[0], Some((norm.eps, inputs[1]))),
            None => (x, None),
        };
        Some(Self { rope, places, inv_freq, norm, from: Columns::of(m, x)? })
    }
}

/// Columns `first .. first + width` of rows of `pitch`.
struct Columns {
    array: usize,
    first: usize,
    width: usize,
    pitch: usize,
}

impl Columns {
    fn of(m: &Matcher<'_>, at: usize) -> Option<Self> {
        let array = flat(m, at);
        let Some((whole, layout)) = m.view(array) else {
            let [_, width] = *m.spec(array).dims else { return None };
            return Some(Self { array, first: 0, width, pitch: width });
        };
        let ([t, pitch], [rows, width]) =
            (m.spec(whole).dims[..].try_into().ok()?, layout.shape[..].try_into().ok()?);
        let part = rows == t && layout.strides == [pitch, 1] && layout.offset + width <= pitch;
        part.then_some(Self { array: whole, first: layout.offset, width, pitch })
    }
}

/// What is seen through reshapes alone.
fn flat(m: &Matcher<'_>, mut at: usize) -> usize {
    while let Some((x, layout)) = m.view(at) {
        if layout.offset != 0 || !layout.is_contiguous() || layout.size() != m.spec(x).size() {
            break;
        }
        at = x;
    }
    at
}

/// The cache that is written for this attention alone, and the rows that go into it.
fn written(m: &Matcher<'_>, at: usize, places: [usize; 2]) -> Option<(usize, usize)> {
    let (_, inputs) = m.op::<KvWrite>(at)?;
    into_cache(m, at, inputs, places)
}

/// The same of a packed cache in this basis.
fn packed(m: &Matcher<'_>, at: usize, places: [usize; 2], basis: Option<usize>) -> Option<(usize, usize)> {
    let (_, inputs) = m.op::<KvPack>(at)?;
    let (found, inputs) = (inputs.get(4).copied(), &inputs[..4]);
    if found == basis { into_cache(m, at, inputs, places) } else { None }
}

fn into_cache(m: &Matcher<'_>, at: usize, inputs: &[usize], places: [usize; 2]) -> Option<(usize, usize)> {
    let [cache, rows, ref same @ ..] = *inputs else { return None };
    let changes = matches!(m.graph.nodes[cache].kind, Kind::Leaf { mutable: true, .. });
    (*same == places && changes && m.uses(at) == 1 && m.uses(cache) == 1).then_some((cache, rows))
}

//! Kernels of a linear layer for one row of `x`, where the adapter has subgroups.

use super::linear::Linear;
use super::matvec::{DOT8, stage};
use super::matvec_rows::GATHER;
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::op::{Kernel, Site, Spec, Stage};
use crate::wgsl::{File, wgsl};

static DOT4: File = wgsl!("matvec_dot4.wgsl");
static HELD: File = wgsl!("matvec_held.wgsl");
static PLANES_HERE: File = wgsl!("parts/planes_here.wgsl");
pub(super) static BY_CHUNKS: File = wgsl!("parts/by_chunks.wgsl");
static HELD_FLOATS: File = wgsl!("parts/held_floats.wgsl");
pub(super) static FETCH_FLOATS: File = wgsl!("parts/fetch_floats.wgsl");
pub(super) static OWN_ROWS: File = wgsl!("parts/own_rows.wgsl");
static NORM_FACTOR: File = wgsl!("parts/norm_factor.wgsl");

/// What the rounding of two planes of bytes may do to a result: each value is off by at most 2^-16 of the
/// greatest of its 32.
pub(super) const ROUNDING: f32 = 1.0 / 8192.0;
/// Workgroups that fill an NVIDIA H100 or H200, two on each of its multiprocessors; small shares do no harm elsewhere.
pub(super) const GROUPS: usize = 264;

/// The kernels for this site, best first.
pub(super) fn kernels(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Vec<Kernel> {
    let held = Held::new(op, site).map(|held| held.kernel(op, site, chunks));
    let dot4 = Dot4::new(op, site).map(|dot4| dot4.kernel(op, site, chunks));
    // x in registers spares most where much is multiplied; its way there and back is longer.
    let enough = match op.format {
        Format::Affine { bits: 2 | 3, .. } => 16384,
        Format::Affine { bits: 5.., .. } => 4096,
        _ => usize::MAX,
    };
    let much = op.weight(site.inputs)[0].dims[0] > enough;
    let kernels = if much { [held, dot4] } else { [dot4, held] };
    kernels.into_iter().flatten().collect()
}

/// The best kernels in other arrangements, for a tuner.
pub(super) fn variants(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Vec<Kernel> {
    let most = site.caps.workgroup_size as usize;
    let mut all = Vec::new();
    if let Some(mut dot4) = Dot4::new(op, site) {
        for (pairs, share) in Dot4::arrangements() {
            (dot4.pairs, dot4.share) = (pairs, share);
            all.extend((dot4.lanes() <= most).then(|| dot4.kernel(op, site, chunks)));
        }
    }
    if let Some(mut held) = Held::new(op, site) {
        let turns = match op.format {
            Format::Affine { bits: ..=4, .. } => vec![Turn::OF_FEW, Turn::OF_MANY],
            _ => vec![held.turn],
        };
        for (lanes, groups) in [(256, 264), (256, 528), (512, 132), (512, 264), (1024, 132)] {
            (held.lanes, held.groups) = (held.team * (lanes / held.team).max(1), groups);
            for turn in turns.iter().filter(|_| held.lanes <= most) {
                held.turn = *turn;
                all.push(held.kernel(op, site, chunks));
            }
        }
    }
    all
}

/// How a kernel reads the weight for integer products, where the adapter has them.
pub(super) fn bytes(op: &Linear, site: &Site<'_>) -> Option<Reader> {
    op.format.bytes(op.weight(site.inputs)).filter(|_| site.caps.dot4)
}

/// Bytes of workgroup memory for the planes of k values, and what little else there is.
fn planes_memory(k: usize) -> usize {
    2 * k + k / 2 + 4 * (256 + 512)
}

pub(super) fn flag(on: bool) -> f64 {
    f64::from(u8::from(on))
}

/// What a team takes at a time.
#[derive(Clone, Copy)]
struct Turn {
    /// Rows: 2 or 4.
    rows: usize,
    /// Whether each is replaced by the next as soon as it is multiplied; else all are by as many before.
    refill: bool,
}

impl Turn {
    /// For rows of 4 bits, few or many.
    const OF_FEW: Self = Self { rows: 2, refill: false };
    const OF_MANY: Self = Self { rows: 4, refill: true };
}

/// How products with a row of `x` that invocations hold in registers are arranged.
struct Held {
    reader: Reader,
    /// Whether it is held as planes of bytes.
    planes: bool,
    /// Units of 8 values that an invocation holds.
    span: usize,
    /// Invocations that share a row of the weight.
    team: usize,
    /// Those of a workgroup: teams.
    lanes: usize,
    turn: Turn,
    /// Sums, of a row and a subgroup, that a workgroup has room for.
    sums: usize,
    /// The most workgroups, unless sums need more.
    groups: usize,
}

impl Held {
    /// Invocations of a workgroup, about.
    const LANES: usize = 512;
    /// Bytes of dense weights that the invocations of a multiprocessor should have on their way. With more than registers
    /// hold at a time workgroups run one after the other, and each pays for its ends: twice this made an 8B model 4%
    /// slower on an NVIDIA H100.
    const AHEAD: usize = 64 << 10;
    /// Rows of 4 bits of a team that are enough for four at a time.
    const MANY: usize = 8;
    /// Sums that a workgroup makes room for, at most.
    const SUMS: usize = 4096;

    /// Integer products of packed weights, where the adapter has them; products of floats, of dense weights, on discrete
    /// GPUs. The arrangement is what was best on an NVIDIA H100.
    fn new(op: &Linear, site: &Site<'_>) -> Option<Self> {
        let (weight, x): (&[Spec], &Spec) = (op.weight(site.inputs), &site.inputs[0]);
        let (least, most) = site.caps.subgroups.map(|(least, most)| (least as usize, most as usize))?;
        let (k, limit) = (x.axis(1), site.caps.workgroup_size as usize);
        if x.axis(2) != 1 || least < 4 || !k.is_multiple_of(UNIT) {
            return None;
        }
        let planes = op.format != Format::Dense;
        let reader = match op.format {
            Format::Affine { .. } => bytes(op, site)?,
            Format::Dense if site.caps.unified => return None,
            Format::Dense => op.format.reader(weight)?,
        };
        let (units, size) = (k / UNIT, weight[0].dtype.size());
        let team_of = |span: usize| units.div_ceil(span).next_multiple_of(most);
        let span = match planes {
            true => 4,
            false => [(256, 1), (usize::MAX, 64 / (UNIT * size)), (usize::MAX, 4)]
                .into_iter()
                .find_map(|(most, span)| (units <= most && team_of(span) <= limit).then_some(span))?,
        };
        let team = team_of(span);
        let lanes = team * (Self::LANES.min(limit) / team).max(1);
        let many = weight[0].dims[0] >= Self::MANY * GROUPS * (lanes / team);
        let turn = match op.format {
            Format::Affine { bits: 5.., .. } => Turn { rows: 2, refill: true },
            Format::Affine { .. } if many => Turn::OF_MANY,
            Format::Dense if span < 4 && size < 4 => Turn { rows: 4, refill: false },
            _ => Turn::OF_FEW,
        };
        let memory = if planes { planes_memory(k) } else { 512 };
        let sums = ((site.caps.workgroup_memory as usize).checked_sub(memory)? / 4).min(Self::SUMS);
        let groups = match op.format {
            Format::Affine { .. } => GROUPS,
            Format::Dense => GROUPS / 2 * (Self::AHEAD / (lanes * turn.rows * span * UNIT * size)).max(1),
        };
        let fits = lanes <= limit && sums >= 2 * team / least;
        fits.then_some(Self { reader, planes, span, team, lanes, turn, sums, groups })
    }

    fn kernel(&self, op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Kernel {
        let least = site.caps.subgroups.map_or(1, |(least, _)| least as usize);
        let per = if op.gate.is_some() { 2 } else { 1 };
        let ([planes, order], of_planes) = op.format.planes();
        let parts: &[&File] = match self.planes {
            true => {
                &[&HELD, &OWN_ROWS, &NORM_FACTOR, &PLANES_HERE, &BY_CHUNKS, planes, order, &DOT8, &GATHER]
            }
            false => &[&HELD, &OWN_ROWS, &NORM_FACTOR, &HELD_FLOATS, &FETCH_FLOATS, &DOT8, &GATHER],
        };
        let stage = |chunk: &Chunk| {
            let (results, subgroups) = (chunk.rows / per, self.team / least);
            let room = (self.sums / (per * subgroups)).max(1);
            let groups = self.groups.max(results.div_ceil(room)).min(results);
            let sums = ("sums", (results.div_ceil(groups) * per * subgroups).into());
            let mut stage = stage(op, site, &self.reader, chunk, (parts, Some(sums)));
            stage.name = if self.planes { "matvec_planes" } else { "matvec_held" };
            stage.constants.extend([
                ("WG", self.lanes as f64),
                ("TEAM", self.team as f64),
                ("ROWS", self.turn.rows as f64),
                ("NORM", flag(op.norm.is_some())),
                ("GATED", flag(op.gate.is_some())),
            ]);
            stage.constants.extend(self.turn.refill.then_some(("REFILL", 1.0)));
            match self.planes {
                true => stage.constants.extend(of_planes),
                false => stage.constants.push(("SPAN", self.span as f64)),
            }
            Stage { grid: [groups as u32, 1, 1], ..stage }
        };
        // A gate multiplies two such results, and is off by what either is.
        let rounding = if self.planes { per as f32 * ROUNDING } else { 0.0 };
        Kernel { stages: chunks.iter().map(stage).collect(), rounding, ..Kernel::default() }
    }
}

/// How integer products with planes in workgroup memory are arranged, without gates.
struct Dot4 {
    reader: Reader,
    /// Invocations of a subgroup, at most.
    subgroup: usize,
    /// Pairs of rows that a workgroup takes at a time.
    pairs: usize,
    /// Subgroups that share one.
    share: usize,
}

impl Dot4 {
    /// Subgroups of a workgroup that a multiprocessor has registers for.
    const SUBGROUPS: usize = 32;
    /// Pairs of rows that a workgroup takes at a time. Few sizes, for each is code of its own.
    const PAIRS: [usize; 6] = [4, 8, 12, 16, 24, 32];

    /// Pairs of rows, and subgroups that share each.
    fn arrangements() -> impl Iterator<Item = (usize, usize)> {
        let shares = |pairs| [1, 2, 4, 8].into_iter().map(move |share| (pairs, share));
        Self::PAIRS.into_iter().flat_map(shares).filter(|(pairs, share)| pairs * share <= Self::SUBGROUPS)
    }

    /// Integer products, where the adapter has them and the planes fit into workgroup memory. Few rows are taken all at
    /// once, by one workgroup on each multiprocessor of an NVIDIA H100 or H200; of more a workgroup is half as large, for
    /// some make planes while others multiply.
    fn new(op: &Linear, site: &Site<'_>) -> Option<Self> {
        let reader = bytes(op, site)?;
        let (n, k) = (op.weight(site.inputs)[0].dims[0], site.inputs[0].axis(1));
        let (least, most) = site.caps.subgroups?;
        let fits = planes_memory(k) <= site.caps.workgroup_memory as usize;
        if site.inputs[0].axis(2) != 1 || op.gate.is_some() || least < 4 || !fits {
            return None;
        }
        // Smaller ones are more, and take more rows.
        let subgroup = most as usize;
        let (pairs, share) = Self::arrange([n, k], subgroup, site.caps.workgroup_size as usize)?;
        Some(Self { reader, subgroup, pairs, share })
    }

    /// Pairs of rows and subgroups that share each, where a workgroup has at most `limit` invocations.
    fn arrange([n, k]: [usize; 2], subgroup: usize, limit: usize) -> Option<(usize, usize)> {
        let room = Self::SUBGROUPS.min(limit / subgroup);
        let all_at_once = n.div_ceil(2).div_ceil(GROUPS / 2);
        match Self::PAIRS.into_iter().find(|pairs| (all_at_once..=room).contains(pairs)) {
            Some(pairs) => Some((pairs, 1 << (k / (4 * UNIT * subgroup)).clamp(1, room / pairs).ilog2())),
            None => (room > 0).then_some((room.div_ceil(2), 1)),
        }
    }

    fn lanes(&self) -> usize {
        self.pairs * self.share * self.subgroup
    }

    fn kernel(&self, op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Kernel {
        let ([planes, order], of_planes) = op.format.planes();
        let parts: &[&File] = &[&DOT4, &NORM_FACTOR, &PLANES_HERE, &BY_CHUNKS, planes, order, &DOT8, &GATHER];
        let stage = |chunk: &Chunk| {
            let mut stage = stage(op, site, &self.reader, chunk, (parts, None));
            stage.name = "matvec_dot4";
            stage.constants.extend([
                ("SHARE", self.share as f64),
                ("WG", self.lanes() as f64),
                ("NORM", flag(op.norm.is_some())),
            ]);
            stage.constants.extend(of_planes);
            let groups = chunk.rows.div_ceil(2 * self.pairs).min(GROUPS);
            Stage { grid: [groups as u32, 1, 1], ..stage }
        };
        Kernel { stages: chunks.iter().map(stage).collect(), rounding: ROUNDING, ..Kernel::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_rows_are_taken_at_once_and_shared_where_subgroups_are_left() {
        let of = |n, k| Dot4::arrange([n, k], 32, 1024);
        assert_eq!(of(6144, 4096), Some((24, 1)));
        assert_eq!(of(4096, 14336), Some((16, 2)));
        assert_eq!(of(2560, 9728), Some((12, 2)));
        assert_eq!(of(2048, 8192), Some((8, 4)));
        // No longer shared than rows are long; many rows in turns.
        assert_eq!(of(2048, 2048), Some((8, 2)));
        assert_eq!(of(46, 64), Some((4, 1)));
        assert_eq!(of(128_256, 4096), Some((16, 1)));
        // Smaller workgroups, larger subgroups.
        assert_eq!(Dot4::arrange([4096, 4096], 32, 256), Some((4, 1)));
        assert_eq!(Dot4::arrange([1024, 4096], 64, 1024), Some((4, 2)));
        assert_eq!(Dot4::arrange([4096, 4096], 128, 64), None);
    }

    #[test]
    fn what_is_chosen_is_among_what_cases_try() {
        let tried: Vec<_> = Dot4::arrangements().collect();
        for (n, k) in
            [1, 64, 896, 2560, 6144, 9000, 200_000].into_iter().flat_map(|n| [64, 896, 9728].map(|k| (n, k)))
        {
            let chosen = Dot4::arrange([n, k], 32, 1024).unwrap();
            assert!(tried.contains(&chosen), "{n} x {k}: {chosen:?}");
        }
    }
}

//! Kernels of a linear layer for a few rows of `x` that registers hold: a batch of tokens.

use super::linear::{FEW, Linear};
use super::matmul::Matmul;
use super::matvec::{DOT8, stage};
use super::matvec_one::{BY_CHUNKS, FETCH_FLOATS, GROUPS, OWN_ROWS, bytes, flag};
use super::matvec_rows::{GATHER, after_planes, with_planes};
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::op::{Arg, Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static SEVERAL: File = wgsl!("matvec_several.wgsl");
static HELD_ROWS: File = wgsl!("parts/held_rows.wgsl");
static HELD_PLANES: File = wgsl!("parts/held_planes.wgsl");

/// Rows of the weight that a team takes at a time.
const ROWS: usize = 4;
/// Sums that a workgroup has room for.
const SUMS: usize = 4096;
/// Bytes of workgroup memory beside them.
const OTHERS: usize = 4 * (256 + 8);
/// Units of dense `x` that an invocation has registers for.
const HELD: usize = 8;
/// So few that a multiprocessor has registers for two workgroups.
const HELD_BY_TWO: usize = 3;
/// Invocations of a workgroup, of which a multiprocessor has registers for one.
const LANES: usize = 512;
/// Parts that long rows are divided into.
const MOST_PARTS: usize = 4;
/// Values of `x` that an invocation has as planes.
const PLANES: usize = 32;

/// How a workgroup divides its work.
struct Shape {
    reader: Reader,
    /// Places of sums: rows of `x`, rounded up to a power of two.
    columns: usize,
    /// Parts of k, each for other workgroups.
    parts: usize,
    /// Units of dense `x` that an invocation holds; else it holds planes.
    span: Option<usize>,
    /// Invocations that share a row of the weight.
    team: usize,
    /// Those of a workgroup: teams.
    lanes: usize,
    /// The most workgroups.
    groups: usize,
}

/// The kernel for this site, on discrete GPUs, where registers hold `x`.
pub(super) fn kernel(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Option<Kernel> {
    Shape::new(op, site, None).map(|shape| shape.kernel(op, site, chunks))
}

/// The same in other arrangements, for a tuner.
pub(super) fn variants(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Vec<Kernel> {
    let arranged = |(lanes, groups)| {
        let shape = Shape { groups, ..Shape::new(op, site, Some(lanes))? };
        Some(shape.kernel(op, site, chunks))
    };
    [(256, 132), (256, 264), (384, 132), (512, 132), (512, 264)].into_iter().filter_map(arranged).collect()
}

impl Shape {
    fn new(op: &Linear, site: &Site<'_>, most_lanes: Option<usize>) -> Option<Self> {
        let (least, most) = site.caps.subgroups.map(|(least, most)| (least as usize, most as usize))?;
        let [m, k] = [site.inputs[0].axis(2), site.inputs[0].axis(1)];
        // A subgroup's sums are one for each of its lanes, at most.
        let sums_fit = ROWS * m.next_power_of_two() <= least;
        if site.caps.unified || !k.is_multiple_of(UNIT) || !(2..=FEW).contains(&m) || !sums_fit {
            return None;
        }
        let limit = |lanes: usize| most_lanes.unwrap_or(lanes).min(site.caps.workgroup_size as usize);
        match op.format {
            Format::Dense => Self::floats(op, site, limit(LANES), most),
            Format::Affine { bits, .. } => {
                let lanes = match (m, bits) {
                    (2, 5 | 6) => return None,
                    (2 | 3, _) => LANES,
                    (4, _) => LANES / 4 * 3,
                    _ => return None,
                };
                Self::planes(op, site, limit(lanes), most)
            }
        }
    }

    /// Packed weights, with subgroups of at most `most`.
    fn planes(op: &Linear, site: &Site<'_>, limit: usize, most: usize) -> Option<Self> {
        let columns = site.inputs[0].axis(2).next_power_of_two();
        let chunks = site.inputs[0].axis(1) / PLANES;
        let team = chunks.next_multiple_of(most);
        if team > limit || 4 * chunks < 3 * team {
            return None;
        }
        let (reader, lanes) = (bytes(op, site)?, team * (limit / team));
        Some(Self { reader, columns, parts: 1, span: None, team, lanes, groups: GROUPS / 2 })
    }

    /// Dense weights, likewise.
    fn floats(op: &Linear, site: &Site<'_>, limit: usize, most: usize) -> Option<Self> {
        let [m, units] = [site.inputs[0].axis(2), site.inputs[0].axis(1) / UNIT];
        let columns = m.next_power_of_two();
        let team_of = |parts: usize, span: usize| units.div_ceil(parts * span).next_multiple_of(most);
        // Sums of parts are added up by another stage, which knows neither norm nor gate.
        let most_parts = if op.norm.is_some() || op.gate.is_some() { 1 } else { MOST_PARTS };
        // 4 units take registers of a quarter of the invocations; parts take fewer.
        let room = |span: usize| if span == 4 && most_parts > 1 { limit / 4 * 3 } else { limit };
        let (parts, span) = (1..=most_parts)
            .flat_map(|parts| [1, 2, 4].map(|span| (parts, span)))
            .find(|&(parts, span)| team_of(parts, span) <= room(span) && columns * span <= HELD)?;
        let team = team_of(parts, span);
        let at_once = if m * span <= HELD_BY_TWO { GROUPS } else { GROUPS / 2 };
        let groups = at_once / parts;
        let reader = op.format.reader(op.weight(site.inputs))?;
        Some(Self { reader, columns, parts, span: Some(span), team, lanes: team * (limit / team), groups })
    }

    fn kernel(&self, op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Kernel {
        let (least, most) = site.caps.subgroups.unwrap_or((1, 1));
        let per = if op.gate.is_some() { 2 } else { 1 };
        let each = self.team / least as usize * self.columns;
        let stride = self.lanes / self.team * ROWS;
        let room = (site.caps.workgroup_memory as usize - OTHERS) / 4;
        let batch = (room.min(SUMS) / each / stride).max(1) * stride;
        // Few bits leave registers for as many rows more.
        let refill = matches!(op.format, Format::Dense | Format::Affine { bits: 5.., .. });
        let ends = self.parts == 1;
        let summed = Linear { bias: ends && op.bias, residual: ends && op.residual, ..op.clone() };
        let product = |chunk: &Chunk| {
            let sums = ("sums", (batch * each).into());
            let mut stage = match self.span {
                Some(span) => {
                    let files = &[&SEVERAL, &OWN_ROWS, &HELD_ROWS, &FETCH_FLOATS, &DOT8, &GATHER];
                    let mut stage = stage(&summed, site, &self.reader, chunk, (files, Some(sums)));
                    stage.constants.extend([("SPAN", span as f64), ("NORM", flag(op.norm.is_some()))]);
                    if self.parts > 1 {
                        stage.constants.push(("PART", (self.team * span) as f64));
                        stage.writes = vec![Arg::Scratch(0)];
                    }
                    stage
                }
                None => {
                    let files = &[&SEVERAL, &OWN_ROWS, &HELD_PLANES, &BY_CHUNKS, &GATHER];
                    with_planes(op, site, &self.reader, chunk, (files, vec![sums]))
                }
            };
            stage.name = "matvec_several";
            stage.constants.extend([
                ("M", site.inputs[0].axis(2) as f64),
                ("WG", self.lanes as f64),
                ("TEAM", self.team as f64),
                ("COLUMNS", self.columns as f64),
                ("GATED", flag(op.gate.is_some())),
                ("REFILL", flag(refill)),
            ]);
            stage.constants.extend((least == most).then_some(("SIZE", least as f64)));
            Stage { grid: [self.groups.min(chunk.rows / per) as u32, self.parts as u32, 1], ..stage }
        };
        let products = chunks.iter().map(product);
        if self.span.is_none() {
            return after_planes(op, site, products);
        }
        let mut kernel = Kernel { stages: products.collect(), ..Kernel::default() };
        if self.parts > 1 {
            kernel.scratch = vec![(self.parts * 4 * site.output.size()) as u64];
            let (first, epilogue) = (op.places().weight, &op.epilogue(site));
            let whole = Matmul { site, format: op.format, first, epilogue, exact: false, norm: None };
            kernel.stages.push(whole.combine(self.parts, Arg::Scratch(0)));
        }
        kernel
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::gpu::Caps;
    use crate::op::Spec;

    /// Parts of k, units that an invocation holds, and invocations of a team.
    fn of(m: usize, k: usize, unified: bool) -> Option<(usize, usize, usize)> {
        let caps = Caps {
            subgroups: Some((32, 32)),
            workgroup_size: 1024,
            workgroup_memory: 48 << 10,
            unified,
            ..Caps::BASELINE
        };
        let inputs = [Spec::new(&[m, k], Dtype::F32), Spec::new(&[64, k], Dtype::BF16)];
        let site = Site { inputs: &inputs, output: &Spec::new(&[m, 64], Dtype::F32), caps: &caps };
        let shape = Shape::new(&Linear::new(Format::Dense, false), &site, None)?;
        Some((shape.parts, shape.span?, shape.team))
    }

    #[test]
    fn registers_hold_fewer_rows_of_longer_ones() {
        assert_eq!([2, 3, 4, 8].map(|m| of(m, 4096, false)), [Some((1, 1, 512)); 4]);
        assert_eq!([2, 4, 5].map(|m| of(m, 8192, false)), [(1, 2, 512), (1, 2, 512), (2, 1, 512)].map(Some));
        assert_eq!([2, 3, 8].map(|m| of(m, 14336, false)), [(2, 2, 448), (2, 2, 448), (4, 1, 448)].map(Some));
        assert_eq!([of(2, 9728, false), of(8, 28672, false)], [Some((1, 4, 320)), None]);
        assert_eq!(of(2, 64, false), Some((1, 1, 32)));
        assert_eq!([of(1, 4096, false), of(9, 4096, false), of(2, 4100, false)], [None; 3]);
        assert_eq!(of(2, 4096, true), None);
    }
}

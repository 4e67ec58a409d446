//! Kernels of a linear layer for a few rows of `x` at once and dense weights: a batch of tokens.

use super::linear::{FEW, Linear};
use super::matvec::{DOT8, stage};
use super::matvec_one::{FETCH_FLOATS, GROUPS, OWN_ROWS, flag};
use super::matvec_rows::GATHER;
use super::weight::{Chunk, Format, Reader, UNIT};
use crate::op::{Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static SEVERAL: File = wgsl!("matvec_several.wgsl");
static HELD_ROWS: File = wgsl!("parts/held_rows.wgsl");

/// Rows of the weight that a team takes at a time.
const ROWS: usize = 4;
/// Sums that a workgroup has room for.
const SUMS: usize = 4096;
/// Bytes of workgroup memory beside them.
const OTHERS: usize = 4 * (256 + 8);
/// Units of `x` that an invocation has registers for.
const HELD: usize = 8;
/// So few that a multiprocessor has registers for two workgroups.
const HELD_BY_TWO: usize = 3;
/// Invocations of a workgroup, of which a multiprocessor has registers for one.
const LANES: usize = 512;

/// How a workgroup divides its work.
struct Shape {
    reader: Reader,
    /// Places of sums: rows of `x`, rounded up to a power of two.
    columns: usize,
    /// Units of a row that an invocation holds.
    span: usize,
    /// Invocations that share a row of the weight.
    team: usize,
    /// Those of a workgroup: teams.
    lanes: usize,
    /// The most workgroups.
    groups: usize,
}

/// The kernel for this site, on discrete GPUs, where registers hold `x`.
pub(super) fn kernel(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Option<Kernel> {
    Shape::new(op, site, LANES).map(|shape| shape.kernel(op, site, chunks))
}

/// The same in other arrangements, for a tuner.
pub(super) fn variants(op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Vec<Kernel> {
    let arranged = |(lanes, groups)| {
        let shape = Shape { groups, ..Shape::new(op, site, lanes)? };
        Some(shape.kernel(op, site, chunks))
    };
    [(256, 264), (512, 132), (512, 264)].into_iter().filter_map(arranged).collect()
}

impl Shape {
    fn new(op: &Linear, site: &Site<'_>, most_lanes: usize) -> Option<Self> {
        let weight = op.weight(site.inputs);
        let (least, most) = site.caps.subgroups.map(|(least, most)| (least as usize, most as usize))?;
        let [m, k] = [site.inputs[0].axis(2), site.inputs[0].axis(1)];
        let suits = op.format == Format::Dense && !site.caps.unified && k.is_multiple_of(UNIT);
        let columns = m.next_power_of_two();
        // A subgroup's sums are one for each of its lanes, at most.
        if !suits || !(2..=FEW).contains(&m) || least < ROWS * columns {
            return None;
        }
        let limit = most_lanes.min(site.caps.workgroup_size as usize);
        let units = k / UNIT;
        let team_of = |span: usize| units.div_ceil(span).next_multiple_of(most);
        let span = [1, 2, 4].into_iter().find(|span| team_of(*span) <= limit && columns * span <= HELD)?;
        let team = team_of(span);
        let lanes = team * (limit / team);
        let groups = if m * span <= HELD_BY_TWO { GROUPS } else { GROUPS / 2 };
        Some(Self { reader: op.format.reader(weight)?, columns, span, team, lanes, groups })
    }

    fn kernel(&self, op: &Linear, site: &Site<'_>, chunks: &[Chunk]) -> Kernel {
        let (least, most) = site.caps.subgroups.unwrap_or((1, 1));
        let per = if op.gate.is_some() { 2 } else { 1 };
        let each = self.team / least as usize * self.columns;
        let stride = self.lanes / self.team * ROWS;
        let room = (site.caps.workgroup_memory as usize - OTHERS) / 4;
        let batch = (room.min(SUMS) / each / stride).max(1) * stride;
        let stage = |chunk: &Chunk| {
            let sums = ("sums", (batch * each).into());
            let mut stage = stage(
                op,
                site,
                &self.reader,
                chunk,
                (&[&SEVERAL, &OWN_ROWS, &HELD_ROWS, &FETCH_FLOATS, &DOT8, &GATHER], Some(sums)),
            );
            stage.name = "matvec_several";
            stage.constants.extend([
                ("M", site.inputs[0].axis(2) as f64),
                ("WG", self.lanes as f64),
                ("TEAM", self.team as f64),
                ("COLUMNS", self.columns as f64),
                ("SPAN", self.span as f64),
                ("NORM", flag(op.norm.is_some())),
                ("GATED", flag(op.gate.is_some())),
            ]);
            stage.constants.extend((least == most).then_some(("SIZE", least as f64)));
            Stage { grid: [self.groups.min(chunk.rows / per) as u32, 1, 1], ..stage }
        };
        Kernel { stages: chunks.iter().map(stage).collect(), ..Kernel::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Dtype;
    use crate::gpu::Caps;
    use crate::op::Spec;

    /// Units that an invocation holds, and invocations of a team.
    fn of(m: usize, k: usize, unified: bool) -> Option<(usize, usize)> {
        let caps = Caps {
            subgroups: Some((32, 32)),
            workgroup_size: 1024,
            workgroup_memory: 48 << 10,
            unified,
            ..Caps::BASELINE
        };
        let inputs = [Spec::new(&[m, k], Dtype::F32), Spec::new(&[64, k], Dtype::BF16)];
        let site = Site { inputs: &inputs, output: &Spec::new(&[m, 64], Dtype::F32), caps: &caps };
        Shape::new(&Linear::new(Format::Dense, false), &site, LANES).map(|shape| (shape.span, shape.team))
    }

    #[test]
    fn registers_hold_fewer_rows_of_longer_ones() {
        assert_eq!([2, 3, 4, 8].map(|m| of(m, 4096, false)), [Some((1, 512)); 4]);
        assert_eq!([2, 4, 5].map(|m| of(m, 8192, false)), [Some((2, 512)), Some((2, 512)), None]);
        assert_eq!([2, 3].map(|m| of(m, 14336, false)), [Some((4, 448)), None]);
        assert_eq!(of(2, 64, false), Some((1, 32)));
        assert_eq!([of(1, 4096, false), of(9, 4096, false), of(2, 4100, false)], [None; 3]);
        assert_eq!(of(2, 4096, true), None);
    }
}

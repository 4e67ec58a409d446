//! Kernels of a linear layer for many rows of `x`: what a prompt costs.

use super::kernel::fits;
use super::linear::Linear;
use super::matvec;
use crate::op::{Kernel, Site, Stage};
use crate::wgsl::{File, wgsl};

static MATMUL: File = wgsl!("matmul.wgsl");

/// Rows of `x` and of the weight that make a tile.
const TILE: usize = 64;

/// The kernels for this site, best first.
pub(super) fn kernels(op: &Linear, site: &Site<'_>) -> Vec<Kernel> {
    let weight = op.weight(site.inputs);
    let Some(reader) = op.format.reader(weight).filter(|_| op.norm.is_none()) else {
        return Vec::new();
    };
    let chunks = op.format.chunks(weight, op.places().weight, site.caps);
    let rows = site.inputs[0].axis(2).div_ceil(TILE);
    // The partner of a gate's row would be in another chunk.
    if op.gate.is_some() && chunks.len() > 1 || !fits([chunks[0].rows.div_ceil(TILE), rows, 1]) {
        return Vec::new();
    }
    let stages = chunks.iter().map(|chunk| {
        let grid = [chunk.rows.div_ceil(TILE) as u32, rows as u32, 1];
        let mut stage =
            Stage { name: "matmul", grid, ..matvec::stage(op, site, &reader, chunk, &[&MATMUL], false) };
        stage.constants.push(("GATED", f64::from(u8::from(op.gate.is_some()))));
        stage
    });
    vec![Kernel { stages: stages.collect(), ..Kernel::default() }]
}

//! What a decode step reads and leaves behind on the device: one row for each sequence.

use super::sampler::Sampler;
use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::Result;
use crate::ops;

/// A sequence as a decode step begins.
pub(super) struct Row<'a> {
    /// Its slot in the cache.
    pub(super) slot: usize,
    /// The token that goes through the model, and its place.
    pub(super) token: u32,
    pub(super) place: [u32; 2],
    pub(super) sampler: &'a Sampler,
}

/// The most sequences in one step: linear layers take this many rows in one pass over their weights.
pub(crate) const MOST: usize = 8;

/// The state of `r` sequences: [`ops::Next`] reads all of it and updates the first three.
pub(super) struct State {
    pub(super) ids: MLXArray,    // [r] u32
    pub(super) places: MLXArray, // [r, 2] u32
    steps: MLXArray,             // [r] u32
    knobs: MLXArray,             // [r, 5] f32
    counts: MLXArray,            // [r, 4] u32
}

impl State {
    pub(super) fn new(rows: usize, device: Device) -> Result<Self> {
        let word = |dims: &[usize]| MLXArray::mutable(dims, Dtype::U32, device);
        Ok(Self {
            ids: word(&[rows])?,
            places: word(&[rows, 2])?,
            steps: word(&[rows])?,
            knobs: MLXArray::mutable(&[rows, 5], Dtype::F32, device)?,
            counts: word(&[rows, 4])?,
        })
    }

    /// Tells the device what the sequences are.
    pub(super) fn load(&self, rows: &[Row<'_>]) -> Result<()> {
        let (mut ids, mut places, mut steps) = ([0u32; MOST], [[0u32; 2]; MOST], [0u32; MOST]);
        let (mut knobs, mut counts) = ([[0f32; 5]; MOST], [[0u32; 4]; MOST]);
        for (i, row) in rows.iter().enumerate().take(MOST) {
            let Sampler { sample, penalty, seed, step, .. } = row.sampler;
            (ids[i], places[i], steps[i]) = (row.token, row.place, *step);
            (knobs[i], counts[i]) = ops::next_rows(sample, *penalty, *seed, row.slot);
        }
        let n = rows.len().min(MOST);
        self.ids.overwrite(bytemuck::cast_slice(&ids[..n]))?;
        self.place(&places[..n])?;
        self.steps.overwrite(bytemuck::cast_slice(&steps[..n]))?;
        self.knobs.overwrite(bytemuck::cast_slice(&knobs[..n]))?;
        self.counts.overwrite(bytemuck::cast_slice(&counts[..n]))
    }

    /// Tells the device where the sequences are, when the cache has moved.
    pub(super) fn place(&self, places: &[[u32; 2]]) -> Result<()> {
        self.places.overwrite(bytemuck::cast_slice(places))
    }

    /// The tokens `[r]` that follow logits `[r, vocab]`; everything moves on with them.
    pub(super) fn next(&self, logits: &MLXArray, seen: &MLXArray) -> MLXArray {
        let Self { ids, places, steps, knobs, counts } = self;
        MLXArray::apply(ops::Next, &[logits, knobs, counts, ids, places, steps, seen])
    }
}

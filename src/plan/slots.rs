//! Which buffer holds which value, and for how long.

use crate::array::MLXArray;
use crate::op::Spec;

/// A value's place: a range of a slot.
#[derive(Clone, Debug)]
pub(super) struct Operand {
    pub(super) slot: usize,
    /// First byte.
    pub(super) offset: usize,
    pub(super) spec: Spec,
}

/// What a slot is bound to when the plan becomes a program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Slot {
    /// The buffer of the `i`-th leaf.
    Leaf(usize),
    /// A buffer that may be shared with other values before and after.
    Temp { bytes: usize },
    /// A buffer that outlives the run.
    Output { bytes: usize },
}

/// Slots in the order of first use, with the steps between which each is needed.
#[derive(Default)]
pub(super) struct Slots {
    pub(super) kinds: Vec<Slot>,
    first_use: Vec<usize>,
    last_use: Vec<usize>,
}

impl Slots {
    /// A new slot, first used by step `step`.
    pub(super) fn add(&mut self, kind: Slot, step: usize) -> usize {
        self.kinds.push(kind);
        self.first_use.push(step);
        self.last_use.push(0);
        self.kinds.len() - 1
    }

    /// Notes that step `step` touches a slot.
    pub(super) fn touch(&mut self, slot: usize, step: usize) {
        self.last_use[slot] = self.last_use[slot].max(step);
    }

    /// Whether in-place steps may write a slot: it is a leaf that was made to change.
    pub(super) fn may_change(&self, slot: usize, leaves: &[MLXArray]) -> bool {
        matches!(self.kinds[slot], Slot::Leaf(i) if leaves[i].0.mutable)
    }

    /// Whether an operand is all of a buffer that outlives the run.
    pub(super) fn is_whole(&self, operand: &Operand, leaves: &[MLXArray]) -> bool {
        let bytes = match self.kinds[operand.slot] {
            Slot::Leaf(i) => leaves[i].nbytes(),
            Slot::Output { bytes } => bytes,
            Slot::Temp { .. } => return false,
        };
        operand.offset == 0 && bytes == operand.spec.bytes()
    }

    /// Lets temporaries share buffers; returns the new number of each slot, and the slots that are left.
    pub(super) fn share(&self) -> (Vec<usize>, Vec<Slot>) {
        let first_use = &self.first_use;
        let mut order: Vec<usize> = (0..self.kinds.len()).collect();
        order.sort_by_key(|&s| first_use[s]);
        let mut kept: Vec<Slot> = Vec::new();
        let mut busy_until: Vec<usize> = Vec::new();
        let mut renamed = vec![0; self.kinds.len()];
        for slot in order {
            let reused = match self.kinds[slot] {
                Slot::Temp { bytes } => (0..kept.len())
                    .filter(|&k| busy_until[k] < first_use[slot])
                    .filter_map(|k| match kept[k] {
                        Slot::Temp { bytes: have } if have >= bytes && have / 2 <= bytes => Some((have, k)),
                        _ => None,
                    })
                    .min()
                    .map(|(_, k)| k),
                Slot::Leaf(_) | Slot::Output { .. } => None,
            };
            let place = reused.unwrap_or_else(|| {
                kept.push(self.kinds[slot]);
                busy_until.push(0);
                kept.len() - 1
            });
            busy_until[place] = self.last_use[slot];
            renamed[slot] = place;
        }
        (renamed, kept)
    }
}

//! Which buffer holds which value, and for how long.

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
    last_use: Vec<usize>,
}

impl Slots {
    pub(super) fn add(&mut self, kind: Slot) -> usize {
        self.kinds.push(kind);
        self.last_use.push(0);
        self.kinds.len() - 1
    }

    /// Notes that step `step` touches a slot.
    pub(super) fn touch(&mut self, slot: usize, step: usize) {
        self.last_use[slot] = self.last_use[slot].max(step);
    }

    /// Lets temporaries share buffers: returns the new number of each slot, and the slots that are left.
    /// `first_use[slot]` is the step that writes it first.
    pub(super) fn share(&self, first_use: &[usize]) -> (Vec<usize>, Vec<Slot>) {
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

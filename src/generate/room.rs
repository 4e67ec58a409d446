//! Which sequences of a batch get pages of the cache: prompts begin with what is there, idle slots give way to
//! answers, and where that is not enough the youngest answers wait and are read again.

use super::batch::Batch;
use super::generator::FinishReason;
use crate::cpu::PAGE;
use crate::error::{Error, Result};

/// How many tokens two texts begin with alike.
pub(crate) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Batch {
    /// Lets a slot begin with what the cache has of a prompt: the slot's own tokens, those of another, or pages that
    /// no slot has any more. What slots have in common is kept once, in whole pages. Returns how many tokens of the
    /// prompt need not be read; what the slot was doing is given up.
    ///
    /// # Errors
    /// No such slot; the device failed.
    pub fn reuse(&mut self, slot: usize, prompt: &[u32]) -> Result<usize> {
        self.stop(slot)?;
        self.rewind();
        // The last token must go through the model in any case.
        let prompt = &prompt[..prompt.len().saturating_sub(1)];
        let kept = |batch: &Self, slot: usize| {
            let alike = common(&batch.lanes[slot].sequence.tokens, prompt);
            batch.runner.cache().within(slot, alike)
        };
        let own = kept(self, slot);
        if !self.prefixes {
            return Ok(own);
        }
        let others = (0..self.lanes.len()).filter(|&other| other != slot);
        let best = others.map(|other| (kept(self, other), other)).max_by_key(|&(n, _)| n);
        let (most, from) = best.unwrap_or((0, slot));
        let known = self.runner.cache().known(prompt);
        if own >= most.max(known) {
            return Ok(own);
        }
        self.lanes[slot].sequence.tokens.clear();
        let shared = match known >= most {
            true => self.runner.recall(slot, prompt),
            false => self.runner.share(from, slot, most),
        }?;
        self.lanes[slot].sequence.tokens.extend_from_slice(&prompt[..shared]);
        Ok(shared)
    }

    /// Whether there are pages for a text of `tokens` tokens beside those of answers under way.
    pub fn has_room(&self, tokens: usize) -> bool {
        let cache = self.runner.cache();
        let running = (0..self.lanes.len()).filter(|&slot| self.lanes[slot].active);
        cache.needs(tokens) + cache.pages_of(running) <= cache.spare() + cache.pages_of(0..self.lanes.len())
    }

    /// A slot lets go of its pages.
    pub(super) fn give_up(&mut self, slot: usize) {
        self.lanes[slot].sequence.tokens.clear();
        self.runner.truncate(slot, 0);
    }

    /// Takes the pages of the slot that has been idle for longest, other than `slot`; returns whether there was one.
    pub(super) fn drop_idle(&mut self, slot: usize) -> bool {
        let idle = (0..self.lanes.len()).filter(|&other| {
            other != slot && !self.lanes[other].active && self.runner.cache().slot_len(other) > 0
        });
        let oldest = idle.min_by_key(|&other| self.lanes[other].turn);
        if let Some(oldest) = oldest {
            self.give_up(oldest);
        }
        oldest.is_some()
    }

    /// Makes room for the next token of each answer, the oldest first.
    pub(super) fn make_room(&mut self) -> Result<()> {
        self.resume()?;
        let mut served = 0;
        loop {
            let next = (0..self.lanes.len())
                .filter(|&slot| self.lanes[slot].runs() && self.lanes[slot].turn > served)
                .min_by_key(|&slot| self.lanes[slot].turn);
            let Some(slot) = next else { return Ok(()) };
            served = self.lanes[slot].turn;
            while self.lanes[slot].runs() {
                let tokens = self.lanes[slot].sequence.tokens.len();
                match self.runner.reserve(slot, tokens) {
                    Ok(()) => break,
                    Err(e) if e.is_memory() => self.find_page(slot, e),
                    Err(e) => return Err(e),
                }
            }
        }
    }

    /// Frees pages for an answer, or lets it wait, or ends it where that would not help.
    fn find_page(&mut self, slot: usize, e: Error) {
        if self.drop_idle(slot) {
            return;
        }
        let holds = |other: &usize| self.lanes[*other].active && self.runner.cache().slot_len(*other) > 0;
        let youngest = (0..self.lanes.len()).filter(holds).max_by_key(|&other| self.lanes[other].turn);
        let alone = (0..self.lanes.len()).filter(holds).count() <= 1;
        match youngest {
            Some(youngest) if !alone => self.park(youngest),
            _ => self.fail(slot, e),
        }
    }

    fn fail(&mut self, slot: usize, e: Error) {
        self.lanes[slot].failure = Some(e);
        self.end(slot, FinishReason::Failed);
        self.runner.truncate(slot, 0);
    }

    /// Lets an answer wait: others take its pages.
    fn park(&mut self, slot: usize) {
        self.rewind();
        self.preempted += usize::from(!self.lanes[slot].parked);
        self.lanes[slot].parked = true;
        self.runner.truncate(slot, 0);
    }

    /// Reads a chunk of the oldest answer that waits, if there is room for all of it: all its tokens go through the
    /// model again but those that the cache still has.
    fn resume(&mut self) -> Result<()> {
        let waiting = (0..self.lanes.len()).filter(|&slot| self.lanes[slot].parked);
        let Some(slot) = waiting.min_by_key(|&slot| self.lanes[slot].turn) else { return Ok(()) };
        let running = self.lanes.iter().filter(|lane| lane.runs()).count();
        let tokens = self.lanes[slot].sequence.tokens.len();
        let begun = self.runner.cache().slot_len(slot) > 0;
        // It needs a page more for each answer that goes on beside it, lest it be sent back at once.
        if running > 0 && !begun && !self.has_room(tokens + PAGE * (running + 1)) {
            return Ok(());
        }
        if !begun && self.prefixes {
            let end = tokens.saturating_sub(1);
            let Self { runner, lanes, .. } = self;
            runner.recall(slot, &lanes[slot].sequence.tokens[..end])?;
        }
        loop {
            match self.lanes[slot].sequence.restore(&mut self.runner) {
                Ok(whole) => {
                    self.lanes[slot].parked = !whole;
                    if whole {
                        self.rewind();
                    }
                    return Ok(());
                }
                Err(e) if e.is_memory() && self.drop_idle(slot) => {}
                Err(e) if e.is_memory() && running == 0 => {
                    self.fail(slot, e);
                    return Ok(());
                }
                Err(e) if e.is_memory() => {
                    self.runner.truncate(slot, 0);
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }
}

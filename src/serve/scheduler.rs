//! [`ModelEngine`]: one thread owns a [`Batch`] and serves a queue from it.
//!
//! Each turn of the thread gives free slots to those who wait, reads at most one chunk of one prompt, and advances
//! all answers by a token: a long prompt delays others by a chunk at a time. What nobody wants any more leaves its
//! slot before the next step.
//!
//! Who waits is served by clients in turn: next is the client with the fewest answers under way, and of those the
//! one that has not had a slot for longest; one client's requests keep their order.
//!
//! A slot keeps its tokens when an answer ends, while nobody needs its pages of the cache. The next prompt goes where
//! least is lost, and begins with what the cache has of it: a common beginning is computed and kept once.
//!
//! A request waits in the queue until there are pages for its prompt. Where running answers need more than there are,
//! the youngest wait and are read again later.

use super::aside::Aside;
use super::engine::{
    Card, Embeddings, Engine, Event, Events, Load, Logprobs, Pooling, Refusal, Request, Scores, Sender,
};
use super::hook::{Adjust, Record};
use crate::array::Device;
use crate::cpu::PAGE;
use crate::error::{Error, Result};
use crate::generate::{Batch, BatchItem, GenerateOptions, LogitsHook, common};
use crate::gpu::Gpu;
use crate::kv_quantization::KvKind;
use crate::models::Model;
use std::collections::{HashMap, VecDeque};
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// How a [`ModelEngine`] runs.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EngineOptions {
    /// Answers at once, 1 to 8.
    pub slots: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// How keys and values are kept, as for [`Batch::with_kinds`].
    pub kinds: Vec<KvKind>,
    /// Begin a prompt with what the cache has of it. Answers are the same without, later.
    pub prefix_cache: bool,
    /// Tokens that the cache may have for all answers together, in pages of 128; by default what they
    /// need, if there is memory. A request that needs more than all fails.
    pub cache_tokens: Option<usize>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self { slots: 8, queue: 128, kinds: Vec::new(), prefix_cache: true, cache_tokens: None }
    }
}

/// A model that answers several requests at once. Dropping it ends its thread.
#[derive(Debug)]
pub struct ModelEngine {
    card: Card,
    shared: Arc<Shared>,
    slots: usize,
    queue: usize,
    cache_pages: usize,
    /// For those who want no answer.
    aside: Aside,
}

struct Job {
    request: Request,
    sender: Sender,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    running: AtomicUsize,
    /// Pages of running requests.
    cache: AtomicUsize,
    preempted: AtomicUsize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    closed: bool,
    /// Why nothing will be answered any more.
    failed: Option<Error>,
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Shared({} running)", self.running.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ModelEngine {
    /// Starts the thread that runs `model`.
    ///
    /// # Errors
    /// Slots or kinds of caches that a batch cannot have; no thread.
    pub fn new(model: &Model, card: Card, options: EngineOptions) -> Result<Self> {
        let mut batch = Batch::with_kinds(model, options.slots, &options.kinds)?;
        batch.keep_prefixes(options.prefix_cache);
        let most = options.slots * card.context_length.next_multiple_of(PAGE);
        let cache_pages = options.cache_tokens.unwrap_or(most) / PAGE;
        if let Some(tokens) = options.cache_tokens {
            batch.limit_cache(tokens);
        }
        let shared = Arc::new(Shared::default());
        let lanes = (0..options.slots).map(|_| None).collect();
        let prefixes = options.prefix_cache;
        let (device, turns) = (model.device(), HashMap::new());
        let worker = Worker { batch, device, shared: shared.clone(), lanes, prefixes, turns };
        std::thread::Builder::new()
            .name("unimlx-engine".to_owned())
            .spawn(move || worker.work())
            .map_err(|e| Error::io(format!("no thread for the engine: {e}")))?;
        let EngineOptions { slots, queue, kinds, .. } = options;
        Ok(Self { card, shared, slots, queue, cache_pages, aside: Aside::new(model, kinds) })
    }
}

impl Drop for ModelEngine {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Engine for ModelEngine {
    fn card(&self) -> &Card {
        &self.card
    }

    fn submit(&self, request: Request) -> Result<Events, Refusal> {
        let (sender, events) = Sender::new();
        let mut state = self.shared.lock();
        if let Some(e) = &state.failed {
            return Err(Refusal::Failed(e.clone()));
        }
        if state.closed {
            return Err(Refusal::Closed);
        }
        state.waiting.retain(|job| !job.sender.is_closed());
        let free = self.slots.saturating_sub(self.shared.running.load(Ordering::SeqCst));
        if state.waiting.len() >= self.queue + free {
            return Err(Refusal::Full(Duration::from_secs(1)));
        }
        state.waiting.push_back(Job { request, sender });
        drop(state);
        self.shared.changed.notify_all();
        Ok(events)
    }

    fn load(&self) -> Load {
        let waiting = self.shared.lock().waiting.iter().filter(|job| !job.sender.is_closed()).count();
        Load {
            running: self.shared.running.load(Ordering::SeqCst),
            waiting,
            cache_used: self.shared.cache.load(Ordering::SeqCst),
            cache_total: self.cache_pages,
            preempted: self.shared.preempted.load(Ordering::SeqCst),
        }
    }

    fn failure(&self) -> Option<Error> {
        self.shared.lock().failed.clone()
    }

    fn embed(&self, inputs: Vec<Vec<u32>>, pooling: Pooling) -> Option<Embeddings> {
        Some(self.aside.embed(inputs, pooling))
    }

    fn score(&self, inputs: Vec<Vec<u32>>, top: usize) -> Option<Scores> {
        Some(self.aside.score(inputs, top))
    }
}

/// A request in a slot.
struct Lane {
    tokens: Vec<u32>,
    options: GenerateOptions,
    hook: Option<Box<dyn LogitsHook>>,
    record: Option<Record>,
    sender: Sender,
    /// Tokens of the prompt that were in the cache.
    cached: usize,
    /// The prompt has been begun.
    begun: bool,
    /// The prompt has been read.
    read: bool,
    client: u64,
    /// The order of arrival, for prompts that are being read.
    ticket: u64,
}

struct Worker {
    batch: Batch,
    device: Device,
    shared: Arc<Shared>,
    lanes: Vec<Option<Lane>>,
    /// Slots may begin with what others have.
    prefixes: bool,
    /// The ticket that a client had last.
    turns: HashMap<u64, u64>,
}

impl Worker {
    /// Until the engine is dropped. A panic below is a bug; like a lost device, it ends the engine with an error
    /// for everyone.
    fn work(mut self) {
        let internal = |_| Err(Error::device("the engine has stopped after an internal error"));
        let outcome = catch_unwind(AssertUnwindSafe(|| self.turns())).unwrap_or_else(internal);
        let mut state = self.shared.lock();
        state.closed = true;
        if let Err(error) = outcome {
            log::error!(target: "unimlx::serve", "nothing is answered any more: {error}");
            state.failed = Some(error.clone());
            for job in state.waiting.drain(..) {
                let _ = job.sender.send(Event::Failed(error.clone()));
            }
            for lane in self.lanes.iter_mut().filter_map(Option::take) {
                let _ = lane.sender.send(Event::Failed(error.clone()));
            }
        }
        state.waiting.clear();
        self.shared.running.store(0, Ordering::SeqCst);
        self.shared.cache.store(0, Ordering::SeqCst);
    }

    fn turns(&mut self) -> Result<()> {
        let mut ticket = 0;
        while self.admit(&mut ticket) {
            self.sweep();
            self.read();
            self.advance();
            self.count();
            if self.device == Device::GPU && Gpu::opened().is_some_and(|gpu| gpu.is_lost()) {
                return Err(Error::device("the GPU device was lost"));
            }
        }
        Ok(())
    }

    /// Gives free slots to those who wait; sleeps while there is nothing to do. `false` at the end.
    fn admit(&mut self, ticket: &mut u64) -> bool {
        let shared = self.shared.clone();
        let mut state = shared.lock();
        loop {
            if state.closed {
                return false;
            }
            while self.lanes.iter().any(Option::is_none) {
                state.waiting.retain(|job| !job.sender.is_closed());
                let Some(next) = self.next(&state.waiting) else { break };
                // The first in turn waits for its pages, and the others with it.
                if self.lanes.iter().any(Option::is_some) && !self.has_room(&state.waiting[next]) {
                    break;
                }
                let Some(job) = state.waiting.remove(next) else { break };
                *ticket += 1;
                self.place(job, *ticket);
            }
            let busy = self.lanes.iter().flatten().count();
            self.shared.running.store(busy, Ordering::SeqCst);
            if busy > 0 {
                return true;
            }
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Whose turn it is of those who wait.
    fn next(&mut self, waiting: &VecDeque<Job>) -> Option<usize> {
        if self.turns.len() > 4096 {
            self.turns.retain(|client, _| waiting.iter().any(|job| job.request.client == *client));
        }
        let turn = |job: &Job| {
            let client = job.request.client;
            let running = self.lanes.iter().flatten().filter(|lane| lane.client == client).count();
            (running, self.turns.get(&client).copied().unwrap_or(0))
        };
        let first = waiting.iter().enumerate().min_by_key(|(_, job)| turn(job));
        first.map(|(i, _)| i)
    }

    /// Whether there are pages for a request's prompt beside those of all that have a slot.
    fn has_room(&self, job: &Job) -> bool {
        let unread = self.lanes.iter().flatten().filter(|lane| !lane.read);
        // Each has a page of its own to go on in.
        let tokens = |n: usize| (n + 1).next_multiple_of(PAGE);
        let coming: usize = unread.map(|lane| tokens(lane.tokens.len())).sum();
        self.batch.has_room(coming + tokens(job.request.tokens.len()))
    }

    /// Puts a request into the free slot that loses least by it.
    fn place(&mut self, job: Job, ticket: u64) {
        let Job { mut request, sender } = job;
        let (hook, record) = Adjust::of(&mut request);
        let Request { tokens, options, client, .. } = request;
        let free = (0..self.lanes.len()).filter(|&slot| self.lanes[slot].is_none());
        let best = free.min_by_key(|&slot| {
            let had = self.batch.tokens(slot);
            let kept = common(had, &tokens);
            (had.len() - kept, std::cmp::Reverse(kept))
        });
        let Some(slot) = best else { return };
        self.turns.insert(client, ticket);
        let (cached, begun, read) = (0, false, false);
        self.lanes[slot] =
            Some(Lane { tokens, options, hook, record, sender, cached, begun, read, client, ticket });
    }

    /// Frees the slots of those who have gone.
    fn sweep(&mut self) {
        for slot in 0..self.lanes.len() {
            if self.lanes[slot].as_ref().is_some_and(|lane| lane.sender.is_closed()) {
                self.leave(slot);
            }
        }
    }

    fn leave(&mut self, slot: usize) {
        self.lanes[slot] = None;
        // Slots are those of the batch.
        let _ = self.batch.stop(slot);
    }

    /// Reads a chunk of the prompt that has waited longest.
    fn read(&mut self) {
        let unread = |slot: &usize| self.lanes[*slot].as_ref().is_some_and(|lane| !lane.read);
        let slots = (0..self.lanes.len()).filter(unread);
        let oldest = slots.min_by_key(|&slot| self.lanes[slot].as_ref().map_or(0, |lane| lane.ticket));
        let Some((slot, lane)) = oldest.and_then(|slot| Some((slot, self.lanes[slot].as_mut()?))) else {
            return;
        };
        if !std::mem::replace(&mut lane.begun, true) {
            let begun = match self.prefixes {
                true => self.batch.reuse(slot, &lane.tokens),
                false => self.batch.forget(slot).map(|()| 0),
            };
            match begun {
                Ok(cached) => lane.cached = cached,
                Err(e) => {
                    let _ = lane.sender.send(Event::Failed(e));
                    return self.leave(slot);
                }
            }
        }
        let mut one_chunk = |p: crate::nn::Progress<'_>| {
            if p.done < p.total { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let options = lane.options.clone();
        let Lane { tokens, hook, .. } = lane;
        match self.batch.prompt_with(slot, tokens, options, hook, &mut one_chunk) {
            Ok(()) => {
                lane.read = true;
                if !lane.sender.send(Event::Start { cached: lane.cached }) {
                    self.leave(slot);
                }
            }
            Err(e) if e.is_cancelled() => {}
            // Running answers have taken what there was; when one ends there is more.
            Err(e) if e.is_memory() && self.batch.is_active() => {}
            Err(e) => {
                let _ = lane.sender.send(Event::Failed(e));
                self.leave(slot);
            }
        }
    }

    /// Advances every answer by a token.
    fn advance(&mut self) {
        let items = match self.batch.step() {
            Ok(items) => items.to_vec(),
            Err(e) => {
                for slot in 0..self.lanes.len() {
                    if let Some(lane) = self.lanes[slot].take_if(|lane| lane.read) {
                        let _ = lane.sender.send(Event::Failed(e.clone()));
                    }
                }
                return;
            }
        };
        for (slot, item) in items {
            let Some(lane) = &self.lanes[slot] else { continue };
            let wanted = match item {
                BatchItem::Token(id) => {
                    let logprobs = lane.record.as_ref().and_then(Record::pop);
                    let logprobs: Option<Box<Logprobs>> = logprobs.map(Box::new);
                    lane.sender.send(Event::Token { id, logprobs })
                }
                BatchItem::End(reason) => {
                    let event = self.batch.failure(slot).cloned().map_or(Event::End(reason), Event::Failed);
                    let _ = lane.sender.send(event);
                    false
                }
            };
            if !wanted {
                self.leave(slot);
            }
        }
    }

    fn count(&self) {
        let busy = || (0..self.lanes.len()).filter(|&slot| self.lanes[slot].is_some());
        self.shared.running.store(busy().count(), Ordering::SeqCst);
        self.shared.cache.store(self.batch.pages_of(busy()), Ordering::SeqCst);
        self.shared.preempted.store(self.batch.preempted(), Ordering::SeqCst);
    }
}

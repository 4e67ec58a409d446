//! [`MockEngine`]: answers by a script, at a stated pace, with the counters of a real engine.
//!
//! Every byte is a token, so characters beyond ASCII are spread over several: what reads the stream is
//! tried with the hardest tokenizer there is.

use super::engine::{
    Card, Embeddings, Engine, Event, Events, Load, Logprobs, Pooling, Refusal, Request, Scores, Sender,
};
use crate::error::{Error, Result};
use crate::generate::{FinishReason, GenerateOptions, LogitsHook};
use crate::io::{ChatTemplate, Tokenizer};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Semaphore;

/// The id after those of the bytes: it ends an answer.
const END: u32 = 256;

/// What a [`MockEngine`] does.
#[derive(Clone, Debug)]
pub struct Script {
    /// The answer to every request; without one, the prompt.
    pub answer: Option<String>,
    /// Time for each token.
    pub pace: Duration,
    /// Requests that are answered at once.
    pub slots: usize,
    /// Requests that may wait.
    pub queue: usize,
    /// Tokens of prompt and answer together.
    pub context_length: usize,
    /// `Some(n)`: fail after `n` tokens.
    pub fails_after: Option<usize>,
    /// The chat template; without one, lines of `role: content`.
    pub template: Option<String>,
}

impl Default for Script {
    fn default() -> Self {
        let pace = Duration::ZERO;
        let (answer, fails_after, template) = (None, None, None);
        Self { answer, pace, slots: 8, queue: 128, context_length: 4096, fails_after, template }
    }
}

/// A deterministic engine for tests of servers and of their clients: no model, no device.
#[derive(Clone, Debug)]
pub struct MockEngine(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    card: Card,
    script: Script,
    slots: Arc<Semaphore>,
    running: AtomicUsize,
    waiting: AtomicUsize,
    cache: AtomicUsize,
    tokens: AtomicUsize,
}

impl MockEngine {
    /// An engine that follows `script`.
    ///
    /// # Errors
    /// None in practice: its tokenizer is fixed.
    pub fn new(script: Script) -> Result<Self> {
        let lines = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
        let template = script.template.as_deref().unwrap_or(lines);
        let special = [("bos_token".to_owned(), "".into()), ("eos_token".to_owned(), "<|end|>".into())];
        let special = special.into_iter().collect();
        let card = Card {
            names: vec!["mock".to_owned()],
            tokenizer: Tokenizer::from_bytes(tokenizer().to_string().as_bytes())?,
            template: Some(ChatTemplate::with_special_tokens(template, special)?),
            context_length: script.context_length,
            vocab_size: END as usize + 1,
            defaults: GenerateOptions::default(),
        };
        let count = || AtomicUsize::new(0);
        let slots = Arc::new(Semaphore::new(script.slots));
        let (running, waiting, cache, tokens) = (count(), count(), count(), count());
        Ok(Self(Arc::new(Inner { card, script, slots, running, waiting, cache, tokens })))
    }

    /// Tokens that were generated, for anybody.
    pub fn generated(&self) -> usize {
        self.0.tokens.load(Ordering::Relaxed)
    }
}

/// A byte-level tokenizer without merges, as GPT-2 spells bytes.
fn tokenizer() -> serde_json::Value {
    let printable = |b: u32| matches!(b, 33..=126 | 161..=172 | 174..=255);
    let mut other = 255;
    let spell = |byte: u32| {
        let code = if printable(byte) {
            byte
        } else {
            other += 1;
            other
        };
        (char::from_u32(code).unwrap_or('?').to_string(), byte.into())
    };
    let vocab: serde_json::Map<String, serde_json::Value> = (0..256).map(spell).collect();
    let level = serde_json::json!({ "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false });
    let end = serde_json::json!({
        "id": END, "content": "<|end|>", "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": true,
    });
    serde_json::json!({
        "version": "1.0", "added_tokens": [end], "normalizer": null, "pre_tokenizer": level,
        "post_processor": null, "decoder": level,
        "model": { "type": "BPE", "vocab": vocab, "merges": [] },
    })
}

impl Engine for MockEngine {
    fn card(&self) -> &Card {
        &self.0.card
    }

    fn submit(&self, request: Request) -> Result<Events, Refusal> {
        let inner = self.0.clone();
        let waiting = inner.waiting.fetch_add(1, Ordering::SeqCst);
        let place = Counted::new(inner.clone(), |i| &i.waiting, 1);
        if waiting >= inner.script.queue + inner.slots.available_permits() {
            return Err(Refusal::Full(Duration::from_secs(1)));
        }
        let (sender, events) = Sender::new();
        tokio::spawn(async move {
            let permit = tokio::select! {
                permit = inner.slots.clone().acquire_owned() => permit,
                () = sender.closed() => return,
            };
            inner.running.fetch_add(1, Ordering::SeqCst);
            let running = Counted::new(inner.clone(), |i| &i.running, 1);
            drop(place);
            inner.answer(request, &sender).await;
            drop((running, permit));
        });
        Ok(events)
    }

    fn load(&self) -> Load {
        let count = |n: &AtomicUsize| n.load(Ordering::SeqCst);
        Load {
            running: count(&self.0.running),
            waiting: count(&self.0.waiting),
            cache_used: count(&self.0.cache),
            cache_total: self.0.script.slots * self.0.script.context_length,
            preempted: 0,
        }
    }

    /// The counts of letters `a` to `h`: alike for texts that are.
    fn embed(&self, inputs: Vec<Vec<u32>>, _: Pooling) -> Option<Embeddings> {
        let one = |ids: Vec<u32>| {
            let count = |c: u32| ids.iter().filter(|&&id| id == c).count() as f32;
            let counts: Vec<f32> = (0..8).map(|i| count(97 + i) + 0.01).collect();
            let norm = counts.iter().map(|x| x * x).sum::<f32>().sqrt();
            counts.iter().map(|x| x / norm).collect()
        };
        let all = inputs.into_iter().map(one).collect();
        Some(Box::pin(std::future::ready(Ok(all))))
    }

    fn score(&self, inputs: Vec<Vec<u32>>, top: usize) -> Option<Scores> {
        let one = |ids: Vec<u32>| ids.iter().skip(1).map(|&id| likely(id, top)).collect();
        let all = inputs.into_iter().map(one).collect();
        Some(Box::pin(std::future::ready(Ok(all))))
    }
}

/// What the mock thinks of any token.
fn likely(id: u32, n: usize) -> Logprobs {
    let top = (0..n as u32).map(|i| ((id + i) % END, -0.5 - i as f32)).collect();
    Logprobs { chosen: -0.5, top }
}

impl Inner {
    async fn answer(self: &Arc<Self>, request: Request, sender: &Sender) {
        let script = &self.script;
        let (used, options, wanted) = (request.tokens.len(), request.options, request.logprobs);
        let (prompt, mut hook) = (request.tokens.clone(), request.hook);
        self.cache.fetch_add(used, Ordering::SeqCst);
        let mut cache = Counted::new(self.clone(), |i| &i.cache, used);
        let answer: Vec<u32> = match &script.answer {
            Some(text) => text.bytes().map(u32::from).collect(),
            None => request.tokens,
        };
        let room = script.context_length.saturating_sub(used);
        let most = options.max_tokens.unwrap_or(room).min(room);
        if !sender.send(Event::Start { cached: 0 }) {
            return;
        }
        let begin = tokio::time::Instant::now();
        let (mut sent, mut complete) = (0, false);
        let mut endless = answer.iter().cycle();
        while sent < most {
            let next = if options.ignore_eos { endless.next() } else { answer.get(sent) };
            let Some(&id) = next.filter(|id| !complete && !options.stop_ids.contains(id)) else {
                let _ = sender.send(Event::End(FinishReason::Stop));
                return;
            };
            if script.fails_after == Some(sent) {
                let _ = sender.send(Event::Failed(Error::device("the device was lost, says the script")));
                return;
            }
            if let Some(hook) = &mut hook {
                match allowed(hook.as_mut(), &prompt, &answer[..sent.min(answer.len())], id) {
                    Ok(done) => complete = done,
                    Err(e) => {
                        let _ = sender.send(Event::Failed(e));
                        return;
                    }
                }
            }
            if script.pace > Duration::ZERO {
                let due = begin + script.pace * (sent as u32 + 1);
                tokio::select! {
                    () = tokio::time::sleep_until(due) => {}
                    () = sender.closed() => return,
                }
            } else if sent % 64 == 63 {
                tokio::task::yield_now().await;
            }
            let logprobs = wanted.map(|n| Box::new(likely(id, n)));
            if !sender.send(Event::Token { id, logprobs }) {
                return;
            }
            sent += 1;
            self.tokens.fetch_add(1, Ordering::Relaxed);
            self.cache.fetch_add(1, Ordering::SeqCst);
            cache.amount += 1;
        }
        let _ = sender.send(Event::End(FinishReason::Length));
    }
}

/// Asks a hook about the script's next token; whether the answer is complete with it.
fn allowed(hook: &mut dyn LogitsHook, prompt: &[u32], answer: &[u32], id: u32) -> Result<bool> {
    let mut logits = [0.0; END as usize + 1];
    hook.adjust(prompt, answer, &mut logits)?;
    if logits.get(id as usize).is_none_or(|&logit| logit == f32::NEG_INFINITY) {
        return Err(Error::input("the script's answer does not have the form that is asked for"));
    }
    hook.took(id)
}

/// Takes from a counter when dropped, however a request ends.
struct Counted {
    inner: Arc<Inner>,
    counter: fn(&Inner) -> &AtomicUsize,
    amount: usize,
}

impl Counted {
    fn new(inner: Arc<Inner>, counter: fn(&Inner) -> &AtomicUsize, amount: usize) -> Self {
        Self { inner, counter, amount }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.counter)(&self.inner).fetch_sub(self.amount, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_script_is_followed_and_counters_return_to_zero() {
        let engine = MockEngine::new(Script { answer: Some("hé".into()), ..Script::default() }).unwrap();
        let mut events = engine.submit(Request { tokens: vec![1, 2], ..Request::default() }).unwrap();
        let mut ids = Vec::new();
        while let Some(event) = events.next().await {
            match event {
                Event::Token { id, .. } => ids.push(id),
                Event::End(reason) => assert_eq!(reason, FinishReason::Stop),
                other => assert!(matches!(other, Event::Start { .. }), "{other:?}"),
            }
        }
        assert_eq!(engine.card().tokenizer.decode(&ids, true).unwrap(), "hé");
        assert_eq!(engine.card().tokenizer.encode("hé", true).unwrap(), ids);
        tokio::task::yield_now().await;
        assert_eq!((engine.load().running, engine.load().waiting, engine.load().cache_used), (0, 0, 0));
    }

    #[tokio::test]
    async fn a_full_queue_refuses_and_a_dropped_stream_frees() {
        let script = Script {
            slots: 1,
            queue: 1,
            pace: Duration::from_secs(9),
            answer: Some("x".into()),
            ..Script::default()
        };
        let engine = MockEngine::new(script).unwrap();
        let submit = || engine.submit(Request::default());
        let first = submit().unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let second = submit().unwrap();
        assert!(matches!(submit(), Err(Refusal::Full(_))));
        assert_eq!((engine.load().running, engine.load().waiting), (1, 1));
        drop((first, second));
        tokio::time::sleep(Duration::from_millis(20)).await;
        assert_eq!((engine.load().running, engine.load().waiting), (0, 0));
    }
}

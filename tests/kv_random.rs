//! Conversations of every kind at once, by chance: several in a batch or one alone, over caches of any kind, layers of
//! several kinds, with windows and without, cut, continued, forgotten, saved on one device and restored on another.
//! Whatever happens, each token is one that the CPU, reading the whole text at once, would take as well.
//!
//! `UNIMLX_CASES` is how many there are.

use std::path::Path;
use std::sync::{Arc, Mutex};
use unimlx::internals::or_skip;
use unimlx::{
    Batch, BatchItem, Device, GenerateOptions, Generator, Gpu, KvKind, LoadOptions, LogitsHook, Model, Result,
};

/// Numbers below a bound, the same in each run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn one<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    fn tokens(&mut self, n: usize) -> Vec<u32> {
        (0..n).map(|_| self.below(500) as u32).collect()
    }
}

const MODELS: [&str; 8] = [
    "llama",
    "llama-tied-mlx-q4g64",
    "mistral",
    "mistral-mlx-q4g64",
    "qwen2",
    "qwen3",
    "qwen3-mlx-q3g64",
    "qwen3-mlx-q8g64",
];

/// Kinds, and how far logits may be off where a value on the edge between two codes falls to the other side.
const KINDS: [(KvKind, f64); 8] = [
    (KvKind::F32, 2e-3),
    (KvKind::F16, 4e-3),
    (KvKind::Int8, 2e-2),
    (KvKind::K8V4, 8e-2),
    (KvKind::Int4, 0.1),
    (KvKind::K4V3, 0.15),
    (KvKind::Bits { keys: 5, values: 8 }, 8e-2),
    (KvKind::Mlx { bits: 8, group: 32 }, 2e-2),
];

fn load(name: &str, device: Device) -> Model {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name).join("model");
    Model::load(folder, LoadOptions { device: Some(device), ..LoadOptions::default() }).unwrap()
}

/// The devices there are.
fn devices() -> Vec<Device> {
    if or_skip(Gpu::shared()).is_some() { vec![Device::GPU, Device::CPU] } else { vec![Device::CPU] }
}

fn greedy(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ignore_eos: true, ..GenerateOptions::default() }
}

/// Notes the logits that each token is chosen from.
struct Watch(Arc<Mutex<Vec<Vec<f32>>>>);

impl LogitsHook for Watch {
    fn adjust(&mut self, _: &[u32], _: &[u32], logits: &mut [f32]) -> Result<()> {
        self.0.lock().unwrap().push(logits.to_vec());
        Ok(())
    }
}

/// A model, and what the CPU says.
struct World {
    name: &'static str,
    model: Model,
    cpu: Model,
    kinds: Vec<KvKind>,
    tolerance: f64,
}

impl World {
    fn new(dice: &mut Dice, device: Device) -> Self {
        let name = dice.one(&MODELS);
        let (model, cpu) = (load(name, device), load(name, Device::CPU));
        let d = model.config().head_dim;
        let fits = |kind: KvKind| !matches!(kind, KvKind::Mlx { group, .. } if d % group as usize != 0);
        let known: Vec<(KvKind, f64)> = KINDS.into_iter().filter(|(kind, _)| fits(*kind)).collect();
        let count = dice.one(&[1, 1, 1, 2, 3]);
        let chosen: Vec<(KvKind, f64)> = (0..count).map(|_| dice.one(&known)).collect();
        let tolerance = chosen.iter().map(|(_, tolerance)| *tolerance).fold(0.0, f64::max);
        Self { name, model, cpu, kinds: chosen.iter().map(|(kind, _)| *kind).collect(), tolerance }
    }

    /// Holds an answer to what the CPU makes of the whole text, and logits, where somebody noted them, to its logits.
    fn check(&self, prompt: &[u32], answer: &[u32], noted: &[Vec<f32>], what: &str) {
        let seen = Arc::default();
        let mut whole = Generator::with_kinds(&self.cpu, &self.kinds);
        for (i, &token) in answer.iter().enumerate() {
            let text = [prompt, &answer[..i]].concat();
            whole.prompt_hooked(&text, greedy(1), Box::new(Watch(Arc::clone(&seen)))).unwrap();
            let logits = std::mem::take(&mut *seen.lock().unwrap()).pop().unwrap();
            let size =
                (logits.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / logits.len() as f64).sqrt();
            let about = || {
                let (name, kinds, n) = (self.name, &self.kinds, prompt.len());
                format!("{name}, {kinds:?}, {what}: token {i} after {n}, logits of about {size:.2}")
            };
            let best = logits.iter().copied().fold(f32::MIN, f32::max);
            let short = f64::from(best - logits[token as usize]);
            assert!(short <= 4.0 * self.tolerance * size, "{}: {short} less likely than the best", about());
            if let Some(noted) = noted.get(i) {
                let off = logits.iter().zip(noted).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
                let off = (off / logits.len() as f64).sqrt() / size;
                assert!(off < self.tolerance, "{}: off by {off:.1e}", about());
            }
        }
    }
}

/// A prompt: something new, something that others begin with too, or a talk that goes on or is taken back.
fn prompt(dice: &mut Dice, common: &[u32], before: &[u32]) -> Vec<u32> {
    let n = dice.one(&[1, 2, 7, 20, 63, 64, 65, 130]);
    let mut tokens = match dice.below(4) {
        0 => Vec::new(),
        1 => common[..dice.one(&[1, 60, 127, 128, 129, 255, 256, 257, 290])].to_vec(),
        2 => before.to_vec(),
        _ => before[..dice.below(before.len() + 1)].to_vec(),
    };
    tokens.extend(dice.tokens(n));
    tokens.truncate(400);
    tokens
}

fn batch(dice: &mut Dice, world: &World, what: &str) {
    let slots = 1 + dice.below(8);
    let mut batch = Batch::with_kinds(&world.model, slots, &world.kinds).unwrap();
    let hooked = dice.below(3) == 0;
    // Sometimes too few pages for all, so that answers wait for others.
    if dice.below(3) == 0 {
        batch.limit_cache(128 * (5 + dice.below(slots)));
    }
    let common = dice.tokens(300);
    let mut prompts = vec![Vec::new(); slots];
    let mut answers = vec![Vec::new(); slots];
    let mut noted: Vec<Arc<Mutex<Vec<Vec<f32>>>>> = vec![Arc::default(); slots];
    let mut left = 2 * slots;
    while left > 0 || batch.is_active() {
        if let Some(slot) = batch.idle_slot().filter(|_| left > 0) {
            left -= 1;
            world.check(&prompts[slot], &answers[slot], &noted[slot].lock().unwrap(), what);
            if dice.below(8) == 0 {
                batch.forget(slot).unwrap();
            }
            let before = [&prompts[slot][..], &answers[slot]].concat();
            prompts[slot] = prompt(dice, &common, &before);
            (answers[slot], noted[slot]) = (Vec::new(), Arc::default());
            let mut hook: Option<Box<dyn LogitsHook>> = None;
            if hooked {
                hook = Some(Box::new(Watch(Arc::clone(&noted[slot]))));
            }
            let options = greedy(1 + dice.below(9));
            let report = &mut |_: unimlx::Progress<'_>| std::ops::ControlFlow::Continue(());
            match batch.prompt_with(slot, &prompts[slot], options, &mut hook, report) {
                Err(e) if e.is_memory() => prompts[slot].clear(),
                done => done.unwrap(),
            }
        }
        for _ in 0..dice.below(3) {
            for &(slot, item) in batch.step().unwrap() {
                if let BatchItem::Token(id) = item {
                    answers[slot].push(id);
                }
            }
        }
        if dice.below(12) == 0 {
            batch.stop(dice.below(slots)).unwrap();
        }
    }
    for slot in 0..slots {
        world.check(&prompts[slot], &answers[slot], &noted[slot].lock().unwrap(), what);
    }
}

fn alone(dice: &mut Dice, world: &World, what: &str, folder: &Path) {
    let mut generator = Generator::with_kinds(&world.model, &world.kinds);
    let common = dice.tokens(300);
    for turn in 0..4 {
        let before = generator.tokens().to_vec();
        let tokens = prompt(dice, &common, &before);
        let seen = Arc::default();
        let options = greedy(1 + dice.below(9));
        if dice.below(2) == 0 {
            generator.prompt_hooked(&tokens, options, Box::new(Watch(Arc::clone(&seen)))).unwrap();
        } else {
            generator.prompt(&tokens, options).unwrap();
        }
        let most = 1 + dice.below(9);
        let answer: Vec<u32> = generator.by_ref().take(most).map(Result::unwrap).collect();
        world.check(&tokens, &answer, &seen.lock().unwrap(), &format!("{what}, turn {turn}"));
        match dice.below(3) {
            0 => generator.trim(dice.below(generator.tokens().len() + 1)),
            1 => {
                // From here to the CPU or back, and on from there.
                let path = folder.join("prompt.safetensors");
                generator.save_prompt(&path).unwrap();
                let other = if dice.below(2) == 0 { &world.cpu } else { &world.model };
                let had = generator.cache().len().min(generator.tokens().len());
                generator = Generator::with_kinds(other, &world.kinds);
                assert_eq!(generator.load_prompt(&path).unwrap(), had, "{what}");
            }
            _ => {}
        }
    }
}

#[test]
fn whatever_happens_answers_are_those_of_the_cpu() {
    let folder = tempfile::tempdir().unwrap();
    let count = std::env::var("UNIMLX_CASES").map_or(3, |count| count.parse().unwrap());
    let first = std::env::var("UNIMLX_CASE").map_or(0, |first| first.parse().unwrap());
    for case in first..first + count {
        for device in devices() {
            let mut dice = Dice(case * 2 + u64::from(device == Device::GPU));
            let world = World::new(&mut dice, device);
            let what = format!("case {case} on the {device}");
            batch(&mut dice, &world, &what);
            alone(&mut dice, &world, &what, folder.path());
        }
    }
}

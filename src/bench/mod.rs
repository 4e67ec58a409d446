//! How fast a model reads and writes, measured the way llama-bench does.
//!
//! Prompt processing: random tokens into a cache that holds `depth` tokens. Generation: tokens one by one
//! after `depth`. Each after a warm-up run, so that plans, kernels and pages are there. Wall time is taken
//! without any timestamp; a further run with two timestamps per submission says how long the GPU itself
//! was busy. [`profile`] looks at single kernels, [`first`] at the first token of a process, [`gemm`](mod@gemm) at one product,
//! [`configs`] knows shapes of published models.

mod batch;
mod configs;
mod first;
mod gemm;
mod profile;
mod roof;

pub use configs::{config_names, synthetic_config};
pub use first::{FirstToken, first_token};
pub use gemm::{Gemm, gemm};
pub use profile::{KernelTime, Profile, profile};
pub use roof::{Roofs, roofs};

use crate::array::Device;
use crate::error::{Error, Result};
use crate::generate::{GenerateOptions, Generator};
use crate::gpu::{Detail, Gpu, watch};
use crate::kv_quantization::KvKind;
use crate::models::Model;
use std::time::Instant;

/// What to measure: each prompt and each generation at each depth.
#[derive(Clone, Debug)]
pub struct BenchOptions {
    /// Tokens of the prompts; 0 leaves one out.
    pub prompts: Vec<usize>,
    /// Tokens to generate; 0 leaves one out.
    pub generations: Vec<usize>,
    /// Tokens in the cache before either begins.
    pub depths: Vec<usize>,
    /// Sequences that are generated together, each on its own prompt: 1 to 8.
    pub batches: Vec<usize>,
    /// Timed runs.
    pub repetitions: usize,
    /// How keys and values are kept, as for [`Generator::with_kinds`].
    pub kv: Vec<KvKind>,
    /// How tokens are chosen; how many, and what ends an answer, does not count.
    pub choice: GenerateOptions,
}

impl Default for BenchOptions {
    fn default() -> Self {
        Self {
            prompts: vec![512],
            generations: vec![128],
            depths: vec![0],
            batches: vec![1],
            repetitions: 3,
            kv: Vec::new(),
            choice: GenerateOptions::default(),
        }
    }
}

impl BenchOptions {
    /// # Errors
    /// More tokens than the model's context, no repetitions, nothing to measure.
    fn check(&self, model: &Model) -> Result<()> {
        let context = model.context_length();
        let generations = self.generations.iter().map(|n| n.saturating_add(1));
        let longest = self.prompts.iter().copied().chain(generations).max().unwrap_or(0);
        let most = self.depths.iter().max().map_or(0, |depth| depth.saturating_add(longest));
        if most > context {
            return Err(Error::input(format!(
                "{most} tokens are asked for, the model's context is {context}"
            )));
        }
        if self.depths.is_empty() || self.prompts.iter().chain(&self.generations).all(|&n| n == 0) {
            return Err(Error::input("a prompt of 0 tokens and 0 to generate: there is nothing to measure"));
        }
        if self.repetitions == 0 {
            return Err(Error::input("0 repetitions measure nothing"));
        }
        if let Some(batch) = self.batches.iter().find(|batch| !(1..=8).contains(*batch)) {
            return Err(Error::input(format!("a batch of {batch} sequences, expected 1 to 8")));
        }
        Ok(())
    }
}

/// One kind of work and how long it took.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BenchRow {
    /// Tokens of the prompt, or 0.
    pub prompt: usize,
    /// Tokens generated, or 0.
    pub generated: usize,
    /// Tokens in the cache before.
    pub depth: usize,
    /// Sequences at a time.
    pub batch: usize,
    /// Wall time of each run, in seconds.
    pub seconds: Vec<f64>,
    /// How long the GPU was busy with one more run, in seconds by its own timestamps, if it has them. What
    /// lies between two submissions does not count.
    pub gpu_seconds: Option<f64>,
}

impl BenchRow {
    /// `pp512`, `tg128`, `tg128 @ d16384`, `tg128 x 8`.
    pub fn test(&self) -> String {
        let mut suffix = if self.batch > 1 { format!(" x {}", self.batch) } else { String::new() };
        if self.depth > 0 {
            suffix += &format!(" @ d{}", self.depth);
        }
        match self.generated {
            0 => format!("pp{}{suffix}", self.prompt),
            n => format!("tg{n}{suffix}"),
        }
    }

    /// Steps of a run: a prompt is one, each generated token is one.
    pub fn steps(&self) -> usize {
        self.generated.max(1)
    }

    /// Tokens per second of each run, of all sequences together.
    pub fn rates(&self) -> Vec<f64> {
        let tokens = ((self.prompt + self.generated) * self.batch) as f64;
        self.seconds.iter().map(|seconds| tokens / seconds.max(1e-9)).collect()
    }

    /// Mean of the rates.
    pub fn mean(&self) -> f64 {
        self.rates().iter().sum::<f64>() / self.seconds.len().max(1) as f64
    }

    /// Median of the rates.
    pub fn median(&self) -> f64 {
        median(self.rates())
    }

    /// Standard deviation of the rates; 0 of one.
    pub fn deviation(&self) -> f64 {
        let (mean, n) = (self.mean(), self.seconds.len());
        let squares: f64 = self.rates().iter().map(|x| (x - mean).powi(2)).sum();
        if n < 2 { 0.0 } else { (squares / (n - 1) as f64).sqrt() }
    }

    /// Median wall time of one step, in seconds.
    pub fn step_seconds(&self) -> f64 {
        median(self.seconds.clone()) / self.steps() as f64
    }

    /// GPU time of one step, in seconds.
    pub fn step_gpu_seconds(&self) -> Option<f64> {
        self.gpu_seconds.map(|seconds| seconds / self.steps() as f64)
    }
}

/// The middle, or the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let n = values.len();
    match n {
        0 => 0.0,
        _ => (values[(n - 1) / 2] + values[n / 2]) / 2.0,
    }
}

/// Measures a model; `report` gets each row when it is done.
///
/// # Errors
/// More tokens than the model's context, no repetitions; the device failed; whatever `report` returns.
pub fn bench(
    model: &Model,
    options: &BenchOptions,
    report: &mut dyn FnMut(BenchRow) -> Result<()>,
) -> Result<()> {
    options.check(model)?;
    let mut bench = Bench::new(model, options)?;
    for &depth in &options.depths {
        for &prompt in options.prompts.iter().filter(|n| **n > 0) {
            report(bench.row(depth, prompt, 0, options.repetitions)?)?;
        }
        for &generated in options.generations.iter().filter(|n| **n > 0) {
            for &batch in &options.batches {
                report(match batch {
                    1 => bench.row(depth, 0, generated, options.repetitions)?,
                    _ => batch::row(model, options, (depth, generated, batch))?,
                })?;
            }
        }
    }
    Ok(())
}

/// A generator and how often it has run.
struct Bench {
    model: Model,
    generator: Generator,
    /// A GPU that can time.
    gpu: Option<std::sync::Arc<Gpu>>,
    choice: GenerateOptions,
    runs: usize,
}

impl Bench {
    fn new(model: &Model, options: &BenchOptions) -> Result<Self> {
        let gpu = if model.device() == Device::GPU { Some(Gpu::shared()?) } else { None };
        let gpu = gpu.filter(|gpu| gpu.caps().timestamps);
        let generator = Generator::with_kinds(model, &options.kv);
        Ok(Self { model: model.clone(), generator, gpu, choice: options.choice.clone(), runs: 0 })
    }

    fn row(&mut self, depth: usize, prompt: usize, generated: usize, repetitions: usize) -> Result<BenchRow> {
        self.run(depth, prompt, generated, None)?;
        let seconds = (0..repetitions).map(|_| self.run(depth, prompt, generated, None));
        let seconds = seconds.collect::<Result<_>>()?;
        let mut gpu_seconds = None;
        if self.gpu.is_some() {
            let busy = self.run(depth, prompt, generated, Some(Detail::Submissions))?;
            gpu_seconds = Some(busy).filter(|busy| *busy > 0.0);
        }
        Ok(BenchRow { prompt, generated, depth, batch: 1, seconds, gpu_seconds })
    }

    /// One prompt, or as many tokens, after `depth` others: seconds by the wall, or under a watch by the GPU.
    fn run(&mut self, depth: usize, prompt: usize, generated: usize, under: Option<Detail>) -> Result<f64> {
        let mut busy = 0.0;
        let seconds = self.timed(depth, prompt, generated, |gpu, work| match (gpu, under) {
            (Some(gpu), Some(detail)) => {
                let seen = watch(gpu, detail, work)?;
                // A step that ran ahead was submitted before the watch began: the others stand for it.
                let missed =
                    if generated > seen.runs { generated as f64 / seen.runs.max(1) as f64 } else { 1.0 };
                busy = seen.seconds * missed;
                Ok(())
            }
            _ => work(),
        })?;
        Ok(if under.is_some() { busy } else { seconds })
    }

    /// Prepares a run and hands its timed part to `around`; returns seconds by the wall.
    fn timed(
        &mut self,
        depth: usize,
        prompt: usize,
        generated: usize,
        around: impl FnOnce(Option<&std::sync::Arc<Gpu>>, &mut dyn FnMut() -> Result<()>) -> Result<()>,
    ) -> Result<f64> {
        self.runs += 1;
        let (generator, choice) = (&mut self.generator, &self.choice);
        let tokens = tokens(&self.model, self.runs, depth, prompt.max(1));
        let options = |n| answer(choice, n);
        if generated > 0 {
            // One more than is timed: the first token is the prompt's.
            generator.prompt(&tokens, options(generated + 1))?;
            generator.next().transpose()?;
        } else if depth > 0 {
            generator.prompt(&tokens[..depth], options(1))?;
        }
        let begin = Instant::now();
        around(self.gpu.as_ref(), &mut || match generated {
            0 => generator.prompt(&tokens, options(1)),
            _ => generator.by_ref().try_for_each(|token| token.map(|_| ())),
        })?;
        Ok(begin.elapsed().as_secs_f64())
    }
}

/// An answer of exactly `n` tokens, chosen so.
fn answer(choice: &GenerateOptions, n: usize) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(n), ignore_eos: true, stop_ids: Vec::new(), ..choice.clone() }
}

/// `depth` tokens that are always the same, so that they are read once, and `n` that differ from run to run
/// from the first on, so that no run finds another's in the cache.
fn tokens(model: &Model, run: usize, depth: usize, n: usize) -> Vec<u32> {
    let vocab = model.config().vocab_size;
    let token = |run: usize, i: usize| ((run * 7919 + i * 104_729 + 1) % vocab) as u32;
    (0..depth).map(|i| token(0, i)).chain((0..n).map(|i| token(run, i))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_row() {
        let row = |seconds: &[f64], prompt, generated| BenchRow {
            prompt,
            generated,
            depth: 0,
            batch: 1,
            seconds: seconds.to_vec(),
            gpu_seconds: Some(0.5),
        };
        let tg = row(&[1.0, 2.0, 4.0], 0, 8);
        assert_eq!((tg.rates(), tg.median()), (vec![8.0, 4.0, 2.0], 4.0));
        assert!((tg.mean() - 14.0 / 3.0).abs() < 1e-12 && (tg.deviation() - 3.055).abs() < 1e-3);
        assert_eq!((tg.step_seconds(), tg.step_gpu_seconds()), (0.25, Some(0.0625)));
        let pp = row(&[1.0, 2.0], 16, 0);
        assert_eq!((pp.test(), pp.median(), pp.step_seconds()), ("pp16".to_string(), 12.0, 1.5));
        assert_eq!(BenchRow { depth: 9, ..tg.clone() }.test(), "tg8 @ d9");
        let eight = BenchRow { batch: 8, ..tg };
        assert_eq!((eight.test().as_str(), eight.median()), ("tg8 x 8", 32.0));
    }

    /// A shape as deep as real ones, otherwise small.
    fn shape(quant: &str) -> crate::io::ModelConfig {
        let text = r#"{"model_type": "qwen3", "hidden_size": 128, "intermediate_size": 256, "vocab_size": 300,
            "num_hidden_layers": 32, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
            "max_position_embeddings": 128, "tie_word_embeddings": true}"#;
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.json");
        std::fs::write(&file, text).unwrap();
        synthetic_config(file.to_str().unwrap(), Some(quant)).unwrap()
    }

    fn synthetic(quant: &str, device: Device) -> Model {
        let options = crate::models::LoadOptions { device: Some(device), progress: None };
        Model::synthetic(&shape(quant), options).unwrap()
    }

    fn has_gpu() -> bool {
        crate::gpu::or_skip(Gpu::shared()).is_some()
    }

    #[test]
    fn a_synthetic_model_stays_within_reason_and_is_the_same_on_every_device() {
        for quant in ["f32", "bf16", "f16", "4bit", "3bit-g32"] {
            let of = |device| {
                let model = synthetic(quant, device);
                crate::generate::logits(&model, &[1, 2, 250, 3], &[KvKind::F32]).unwrap()
            };
            let cpu = of(Device::CPU);
            let size = (cpu.iter().map(|x| x * x).sum::<f32>() / cpu.len() as f32).sqrt();
            assert!((0.2..5.0).contains(&size), "{quant}: logits of size {size}");
            if has_gpu() {
                let gpu = of(Device::GPU);
                let error = cpu.iter().zip(&gpu).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                assert!(error < 1e-3 * size, "{quant}: {error} of {size}");
            }
        }
    }

    #[test]
    fn a_profile_has_every_dispatch() {
        if !has_gpu() || !Gpu::shared().unwrap().caps().timestamps {
            return;
        }
        let model = synthetic("4bit", Device::GPU);
        let options =
            BenchOptions { prompts: vec![0], generations: vec![3], depths: vec![5], ..Default::default() };
        let profiles = profile(&model, &options).unwrap();
        let [token] = &profiles[..] else { panic!("{profiles:?}") };
        assert_eq!(token.test, "tg3 @ d5");
        assert!(token.whole > 0.0 && token.empty > 0.0 && token.kernel_seconds() > 0.0);
        let matrices =
            token.kernels.iter().filter(|k| k.shape.ends_with(" x 128") || k.shape.ends_with(" x 256"));
        let bytes: f64 = matrices.filter(|k| k.name != "embedding").map(|k| k.bytes).sum();
        // Each weight is read once a token; activations and norms are little beside.
        assert!((0.9..1.3).contains(&(bytes / model.bytes() as f64)), "{bytes} of {}", model.bytes());
        let mut rows = Vec::new();
        bench(&model, &options, &mut |row| {
            rows.push(row);
            Ok(())
        })
        .unwrap();
        assert!(rows.len() == 1 && rows[0].gpu_seconds.is_some_and(|busy| busy > 0.0), "{rows:?}");
    }

    #[test]
    fn drawn_tokens_are_measured_and_rules_that_mean_nothing_refused() {
        let model = synthetic("4bit", Device::CPU);
        let rows = |top_p| {
            let choice = GenerateOptions { temperature: 0.8, top_p, ..Default::default() };
            let (prompts, generations) = (vec![0], vec![3]);
            let options =
                BenchOptions { prompts, generations, batches: vec![1, 2], choice, ..Default::default() };
            let mut tests = Vec::new();
            bench(&model, &options, &mut |row| {
                tests.push(row.test());
                Ok(())
            })?;
            Ok::<_, Error>(tests)
        };
        assert_eq!(rows(0.9).unwrap(), ["tg3", "tg3 x 2"]);
        assert!(rows(-1.0).unwrap_err().to_string().contains("top_p"));
    }
}

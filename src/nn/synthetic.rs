//! Weights that nobody trained, for measuring speed without a checkpoint.
//!
//! Each tensor is filled where it will live: on a GPU by a kernel, on the CPU by threads, with the same bits.
//! Element `i` depends on the tensor's name and `i` alone. The sizes of the numbers are such that
//! activations neither vanish nor grow through many layers: matrices have deviation `1 / sqrt(k)`, norms
//! are about 1.

use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::gpu::{self, Bind, Recording, Step};
use crate::io::{ModelConfig, Quantization, QuantizationMode};
use crate::memory::Buffer;
use crate::op::{Arg, Spec, Stage, spread};
use crate::wgsl::{File, wgsl};
use rayon::prelude::*;

static FILL: File = wgsl!("fill.wgsl");
static PACK: File = wgsl!("parts/pack.wgsl");

/// Mean and deviation of the sum of four random bytes.
const MEAN: f32 = 510.0;
const DEVIATION: f32 = 147.8;
/// Added to the sum where numbers should lie around one value: they differ by about a hundredth of it.
const NEAR: f32 = 10_000.0;

/// Words that one dispatch fills at most.
const PIECE: u64 = 64 << 20;
/// Words of a piece of work of one thread.
const HOST_PIECE: usize = 1 << 16;
/// Invocations of a workgroup.
const WG: usize = 256;
/// Where bindings may begin: the largest alignment that WebGPU lets a device ask for.
const ALIGNMENT: u64 = 256;

/// Tensors of any name and shape.
pub(crate) struct Synthetic<'a> {
    config: &'a ModelConfig,
    dtype: Dtype,
}

impl<'a> Synthetic<'a> {
    /// Tensors of the types that a configuration states: `dtype` (bf16 if it says nothing) and
    /// `quantization`.
    pub(crate) fn new(config: &'a ModelConfig) -> Self {
        Self { config, dtype: config.dtype.unwrap_or(Dtype::BF16) }
    }

    /// How the weight of a module with rows of `k` is packed.
    ///
    /// # Errors
    /// A mode that is not supported, or groups that do not divide rows.
    pub(crate) fn quantization_of(&self, module: &str, k: usize) -> Result<Option<Quantization>> {
        let Some(quantization) = self.config.quantization.as_ref().and_then(|q| q.of(module)) else {
            return Ok(None);
        };
        if quantization.mode != QuantizationMode::Affine {
            return Err(Error::unsupported(format!("`{module}`: {quantization}")));
        }
        match k.is_multiple_of(quantization.group_size) {
            true => Ok(Some(quantization)),
            false => Err(Error::format(format!(
                "`{module}`: groups of {} do not divide rows of {k}",
                quantization.group_size
            ))),
        }
    }

    /// A floating-point tensor: a matrix, a norm, a bias, or scales and biases of packed words.
    pub(crate) fn float(&self, name: &str, dims: &[usize]) -> Noise {
        let (module, field) = name.rsplit_once('.').unwrap_or(("", name));
        let k = dims.last().copied().unwrap_or(1).max(1);
        let packed = self.config.quantization.as_ref().and_then(|q| q.of(module));
        let (of, base, factor) = match (field, packed) {
            ("scales" | "biases", Some(q)) => {
                let levels = (1u32 << q.bits) as f32;
                let scale = 4.0 / levels / ((k * q.group_size) as f32).sqrt();
                let unit = if field == "scales" { scale } else { -scale * (levels - 1.0) / 2.0 };
                // Named alike, so that a group's bias belongs to its scale.
                (module, NEAR, unit / (NEAR + MEAN))
            }
            ("bias", _) => (name, -MEAN, 0.02 / DEVIATION),
            _ if dims.len() == 1 => (name, NEAR, 1.0 / (NEAR + MEAN)),
            _ => (name, -MEAN, 1.0 / (DEVIATION * (k as f32).sqrt())),
        };
        Noise { spec: Spec::new(dims, self.dtype), seed: hash(of), base, factor }
    }

    /// A tensor of random words.
    pub(crate) fn packed(&self, name: &str, dims: &[usize]) -> Noise {
        Noise { spec: Spec::new(dims, Dtype::U32), seed: hash(name), base: 0.0, factor: 0.0 }
    }
}

/// FNV-1a: the same in every version of everything.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h, byte| (h ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

/// What a tensor is filled with.
#[derive(Clone, Debug)]
pub(crate) struct Noise {
    pub(crate) spec: Spec,
    seed: u32,
    base: f32,
    factor: f32,
}

impl Noise {
    fn words(&self) -> u64 {
        self.spec.bytes().div_ceil(4) as u64
    }

    /// Fills a GPU buffer from byte `offset`, a multiple of 4, on. The last word is written whole.
    ///
    /// # Errors
    /// The device failed.
    pub(crate) fn write(&self, buffer: &gpu::Buffer, offset: u64) -> Result<()> {
        let most = (buffer.gpu().caps().max_binding / 4).min(PIECE) - ALIGNMENT / 4;
        self.write_pieces(buffer, offset, most)
    }

    /// One dispatch for each `most` words.
    fn write_pieces(&self, buffer: &gpu::Buffer, offset: u64, most: u64) -> Result<()> {
        let gpu = buffer.gpu();
        let mut recording = Recording { buffers: vec![buffer.capacity()], steps: Vec::new() };
        let mut first = 0;
        while first < self.words() {
            let words = most.min(self.words() - first);
            let begin = offset + 4 * first;
            let aligned = begin / ALIGNMENT * ALIGNMENT;
            let stage = self.stage(words as usize, ((begin - aligned) / 4) as usize, first as usize);
            let bind = Bind { slot: 0, offset: aligned, bytes: begin - aligned + 4 * words, write: true };
            recording.steps.push(Step::Dispatch(stage.dispatch(stage.name, vec![bind])));
            first += words;
        }
        gpu.run(&gpu.prepare(&recording, std::slice::from_ref(buffer))?).context("filling a tensor")
    }

    fn stage(&self, words: usize, at: usize, first: usize) -> Stage {
        let (grid, stride) = spread(words.div_ceil(WG));
        let kind = match self.spec.dtype {
            Dtype::F32 => 0.0,
            Dtype::F16 => 1.0,
            Dtype::BF16 => 2.0,
            Dtype::U32 | Dtype::I32 | Dtype::U8 => 3.0,
        };
        Stage {
            name: "fill",
            files: vec![&FILL, &PACK],
            constants: vec![("KIND", kind)],
            writes: vec![Arg::Output],
            params: vec![
                ("words", words.into()),
                ("at", at.into()),
                ("first", first.into()),
                ("seed", self.seed.into()),
                ("base", self.base.into()),
                ("factor", self.factor.into()),
                ("stride", stride.into()),
            ],
            grid,
            ..Stage::default()
        }
    }

    /// The tensor in host memory.
    ///
    /// # Errors
    /// Not enough of it.
    pub(crate) fn host(&self) -> Result<Buffer> {
        let buffer = Buffer::host_zeroed(self.spec.bytes())?;
        if let Buffer::Host(host) = &buffer {
            host.write().par_chunks_mut(HOST_PIECE).enumerate().for_each(|(piece, words)| {
                for (i, word) in words.iter_mut().enumerate() {
                    *word = self.word((piece * HOST_PIECE + i) as u32);
                }
            });
        }
        Ok(buffer)
    }

    /// Word `i`, as the kernel computes it.
    fn word(&self, i: u32) -> u32 {
        let element = |e: u32| {
            let sum: u32 = self.random(e).to_le_bytes().into_iter().map(u32::from).sum();
            (self.base + sum as f32) * self.factor
        };
        let pair = |narrow: &dyn Fn(f32) -> u16| {
            let [low, high] = [0, 1].map(|half| narrow(element(i.wrapping_mul(2).wrapping_add(half))));
            u32::from(low) | u32::from(high) << 16
        };
        match self.spec.dtype {
            Dtype::F32 => element(i).to_bits(),
            Dtype::F16 => pair(&|x| half::f16::from_f32(x).to_bits()),
            Dtype::BF16 => pair(&|x| half::bf16::from_f32(x).to_bits()),
            Dtype::U32 | Dtype::I32 | Dtype::U8 => self.random(i),
        }
    }

    fn random(&self, i: u32) -> u32 {
        let state = (i ^ self.seed).wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    }
}

/// The kernel for each dtype: for tests of shaders, and, over a few words, work that takes no time.
pub fn fill_stages() -> Vec<Stage> {
    let noise = |dtype| Noise { spec: Spec::new(&[1], dtype), seed: 1, base: NEAR, factor: 1.0 };
    [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::U32].map(|dtype| noise(dtype).stage(1, 0, 0)).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Gpu, or_skip};

    fn config(text: &str) -> ModelConfig {
        let head = r#""model_type": "llama", "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 1,
            "num_attention_heads": 2, "vocab_size": 50"#;
        ModelConfig::parse("config.json", format!("{{ {head}, {text} }}").as_bytes()).unwrap()
    }

    fn numbers(noise: &Noise) -> Vec<f32> {
        let mut bytes = vec![0; noise.spec.bytes()];
        noise.host().unwrap().read(&mut bytes).unwrap();
        match crate::reference::Values::from_bytes(&bytes, noise.spec.dtype) {
            crate::reference::Values::F(values) => values,
            crate::reference::Values::U(_) => panic!("integers"),
        }
    }

    #[test]
    fn matrices_keep_the_size_of_what_they_multiply() {
        let deviation = |x: &[f32]| (x.iter().map(|x| x * x).sum::<f32>() / x.len() as f32).sqrt();
        let config16 = config(r#""dtype": "float16""#);
        let dense = Synthetic::new(&config16);
        assert_eq!(dense.quantization_of("a", 7).unwrap(), None);
        let matrix = dense.float("a.weight", &[64, 256]);
        assert_eq!(matrix.spec.dtype, Dtype::F16);
        assert!((deviation(&numbers(&matrix)) * 16.0 - 1.0).abs() < 0.03);
        assert!(numbers(&dense.float("norm.weight", &[64])).iter().all(|x| (0.9..1.1).contains(x)));

        for bits in [2, 3, 4, 5, 6, 8] {
            let text = format!(r#""quantization": {{ "bits": {bits}, "group_size": 64 }}"#);
            let config = config(&text);
            let packed = Synthetic::new(&config);
            let q = packed.quantization_of("a", 256).unwrap().unwrap();
            assert!(packed.quantization_of("a", 96).unwrap_err().to_string().contains("rows of 96"));
            let [scales, biases] =
                ["a.scales", "a.biases"].map(|name| numbers(&packed.float(name, &[64, 4])));
            let mut words = vec![0; 64 * 32 * bits];
            packed.packed("a.weight", &[64, 256 * bits / 32]).host().unwrap().read(&mut words).unwrap();
            let mut out = vec![0.0; 64 * 256];
            crate::io::quantized::dequantize(&words, &scales, &biases, q, &mut out).unwrap();
            let (mean, size) = (out.iter().sum::<f32>() / out.len() as f32 * 16.0, deviation(&out) * 16.0);
            assert!(mean.abs() < 0.05 && (0.9..1.4).contains(&size), "{bits} bits: {mean}, {size}");
        }
    }

    #[test]
    fn a_gpu_writes_the_same_bits() {
        let Some(gpu) = or_skip(Gpu::shared()) else { return };
        let noise =
            |dtype| Noise { spec: Spec::new(&[37, 1001], dtype), seed: 9, base: -MEAN, factor: 0.003 };
        for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16, Dtype::U32] {
            let noise = noise(dtype);
            let bytes = noise.spec.bytes().next_multiple_of(4);
            let mut expected = vec![0; bytes];
            noise.host().unwrap().read(&mut expected).unwrap();
            for most in [PIECE, 1001] {
                let buffer = gpu.alloc_zeroed(bytes as u64 + 600).unwrap();
                noise.write_pieces(&buffer, 500, most).unwrap();
                let all = gpu.read_vec(&buffer).unwrap();
                assert!(all[500..500 + bytes] == expected, "{dtype} by {most}");
                assert!(all[..500].iter().chain(&all[500 + bytes..]).all(|&b| b == 0), "{dtype}: around it");
            }
        }
    }
}

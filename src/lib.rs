//! MLX for every GPU: unified-memory arrays, lazy graphs, fused WGSL kernels and LLM inference on wgpu.
//!
//! # The nouns
//!
//! | noun | what it is |
//! |---|---|
//! | [`MLXArray`] | a value that may not exist yet: a node of a lazy graph with shape, dtype and device |
//! | [`ArrayShape`], [`Dtype`], [`Device`] | its axes, its elements, where it lives |
//! | [`MemoryPool`], [`memory`] | arrays that are counted and freed together; what the engine uses in all |
//! | [`Op`] | a formula of primitives that has earned kernels |
//! | [`Checkpoint`], [`Model`], [`Tokenizer`] | a model folder, the same on a device, and its words |
//! | [`Generator`], [`Batch`], [`GenerateOptions`] | one answer or several at once, token by token |
//! | [`KvCache`], [`KvKind`] | what a model remembers of a text, and in how many bits |
//! | [`Error`] | what went wrong, and while doing what |
//!
//! # Arrays
//!
//! ```
//! use unimlx::{MLXArray, ArrayShape, Device, MemoryPool};
//! let arr = MLXArray::new_cpu(vec![1.0, 2.0, 3.0, 4.0], ArrayShape::Shape1D(4));
//! let gpu_arr = arr.to_device(Device::GPU);
//! # if unimlx::Device::GPU.or_fallback() == Device::GPU {
//! assert_eq!(gpu_arr.device(), Device::GPU);
//! # }
//! let cpu_arr = gpu_arr.to_device(Device::CPU);
//! assert_eq!(cpu_arr.data(), vec![1.0, 2.0, 3.0, 4.0]);
//! let mut pool = MemoryPool::new(Device::CPU);
//! let arr1 = pool.allocate(vec![1.0; 100], ArrayShape::Shape1D(100));
//! assert_eq!(pool.memory_usage(), 400); // bytes
//! ```
//!
//! Arithmetic builds a graph; looking at elements computes it, on the device of its operands, with chains
//! of elementwise work fused into one kernel:
//!
//! ```
//! use unimlx::{MLXArray, ArrayShape};
//! let x = MLXArray::new_gpu(vec![0.0, 1.0, 2.0], ArrayShape::Shape1D(3));
//! let y = (&x * 2.0 + 1.0).square(); // nothing computed yet
//! assert_eq!(y.data(), [1.0, 9.0, 25.0]);
//! ```
//!
//! # Models
//!
//! ```no_run
//! use unimlx::{Chat, Checkpoint, GenerateOptions, Generator, KvKind, LoadOptions, Model};
//! # fn main() -> unimlx::Result<()> {
//! let checkpoint = Checkpoint::open("path/to/model")?;
//! let tokenizer = checkpoint.tokenizer()?;
//! let template = checkpoint.chat_template()?.expect("a model to chat with");
//! let model = Model::from_checkpoint(&checkpoint, LoadOptions::default())?; // on the GPU if there is one
//! let mut generator = Generator::new(&model, Some(KvKind::Int8));
//!
//! let messages = [serde_json::json!({ "role": "user", "content": "Tell me a story." })];
//! let chat = Chat { messages: &messages, add_generation_prompt: true, ..Chat::default() };
//! let prompt = template.render(&chat)?;
//! let options = GenerateOptions::suggested(model.generation_config());
//! generator.prompt(&tokenizer.encode(&prompt, false)?, options)?;
//! for piece in generator.text(&tokenizer) {
//!     print!("{}", piece?); // who has heard enough leaves the loop
//! }
//! generator.save_prompt("talk.safetensors")?; // goes on here or on another device: `load_prompt`
//! # Ok(())
//! # }
//! ```
//!
//! A generator, a batch and a model are `Send`: an application with a window needs no more than a thread that
//! owns them and a channel. Reading a long prompt can be cancelled, too: [`Generator::prompt_with`].
//!
//! # Floors
//!
//! A module imports only from its own floor and those below; from 6 up, only from those below.
//!
//! | floor | modules |
//! |---|---|
//! | 0 | `error`, `dtype`, `layout` |
//! | 1 | `wgsl` links shader files, `gpu` is everything that touches wgpu |
//! | 2 | `array`, `formula`, `prim`, `op`, `memory`: the graph |
//! | 3 | `reference` says what everything means, `trial` holds kernels to it, `ops` have kernels, `cpu` has native ones |
//! | 4 | `plan` turns graphs into work |
//! | 5 | `io` reads checkpoints, `nn` builds layers, `kv_quantization` keeps keys and values |
//! | 6 | `models`, one paper per file |
//! | 7 | `generate`: prompts, the decode loop, sampling |
//! | 8 | `serve`, the OpenAI API; `bench` |
//! | 9 | the command: `main`, `cli` |

// The library never prints; the binary and the examples do.
#![warn(clippy::print_stdout, clippy::print_stderr)]

mod array;
mod bench;
mod cpu;
mod dtype;
mod error;
mod formula;
mod generate;
mod gpu;
mod io;
mod kv_quantization;
mod layout;
pub mod memory;
mod models;
mod nn;
mod op;
pub mod ops;
mod plan;
mod prim;
mod reference;
#[cfg(feature = "serve")]
pub mod serve;
mod trial;
mod wgsl;

pub use array::{Device, MLXArray};
pub use bench::{
    BenchOptions, BenchRow, FirstToken, Gemm, KernelTime, Profile, Roofs, bench, config_names, first_token,
    gemm, profile, roofs, synthetic_config,
};
pub use cpu::{set_threads, simd_name, threads};
pub use dtype::Dtype;
pub use error::{Error, Result};
pub use generate::{
    Batch, BatchItem, FinishReason, Fit, GenerateOptions, Generator, LogitsHook, Stats, TextStream,
    each_logits, hidden_states, logits, logits_after,
};
pub use gpu::{Caps, Gpu, Options as GpuOptions, Tier};
pub use io::{
    Chat, ChatTemplate, Checkpoint, GenerationConfig, LayerType, MlxLayer, MlxModel, ModelConfig,
    Quantization, QuantizationMode, Rope, RopeScaling, TensorView, TokenBytes, TokenStream, Tokenizer,
    load_mlx_model,
};
pub use kv_quantization::{KvCache, KvKind};
pub use layout::ArrayShape;
pub use memory::MemoryPool;
pub use models::{LoadOptions, Model, model_types};
pub use nn::{Progress, Report};
pub use op::{Arg, Case, CpuKernel, Fill, HostMut, HostRef, Kernel, Op, Site, Spec, Stage, Word};
pub use plan::{TriedKernel, TunedShape, eval, set_fusion, try_kernels, tuned_shapes};
pub use wgsl::File;
// The versions whose types are part of this interface.
pub use {ndarray, wgpu};

/// What the crate's own integration tests need and users do not.
#[doc(hidden)]
pub mod internals {
    pub use crate::gpu::{Bind, Buffer, Dispatch, Gpu, Pending, Prepared, Recording, Step, Ticket, or_skip};
    pub use crate::kv_quantization::Baseline;
    pub use crate::nn::fill_stages;
    pub use crate::trial::Trial;
    pub use crate::wgsl::{Source, link};
}

/// The README's snippets are tests too.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

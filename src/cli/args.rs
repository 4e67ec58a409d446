//! Words and flags.

use clap::builder::{PathBufValueParser, RangedU64ValueParser, TypedValueParser};
use clap::{Parser, Subcommand, ValueEnum};
use std::path::PathBuf;
use unimlx::{GenerateOptions, KvKind};

/// MLX for every GPU: run language models through wgpu, or natively on the CPU.
///
/// Without -m the shipped model is used: a storyteller of 10 million parameters.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0 done, 1 other trouble, 2 bad arguments, 3 bad or unsupported model,
  4 device or memory, 130 interrupted

Environment:
  UNIMLX_ADAPTER=NAME    use the adapter whose name contains this
  UNIMLX_DISABLE=a,b     switch off subgroups, f16, dot4, coop8, coop16, fragments,
                         coop, timestamps, unified, fast-device, or all: baseline
  UNIMLX_CHECKED=1       keep bounds checks in kernels
  UNIMLX_CACHE=DIR       keep compiled kernels there; empty keeps none
  UNIMLX_LOG=debug       say what is going on
  UNIMLX_MODEL, UNIMLX_DEVICE, UNIMLX_KV: what -m, --device, --kv are if not given";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Continue a text.
    Generate(GenerateArgs),
    /// Talk with a model, one line at a time. Ctrl-C stops the answer, Ctrl-D ends the chat.
    Chat(ChatArgs),
    /// Speak the OpenAI API on a port of this machine.
    #[cfg(feature = "serve")]
    Serve(Box<ServeArgs>),
    /// Say what this machine offers: adapter, tiers, limits, memory.
    Info(InfoArgs),
    /// Say what a model needs: weights, cache, scratch.
    Fit(FitArgs),
    /// Measure tokens per second, as llama-bench does.
    Bench(BenchArgs),
    /// Write the logits of a prompt to a safetensors file.
    Logits(LogitsArgs),
}

const QUANT: &str =
    "Its weights: f32, f16, bf16; 2bit to 8bit, in groups of 64 or, say, 4bit-g32 [default: as published]";

/// A file to write tensors to. `-` is refused: binary data does not go to standard output, nor into a file of that name.
fn tensors() -> impl TypedValueParser<Value = PathBuf> {
    PathBufValueParser::new().try_map(|path| match path.as_os_str() == "-" {
        true => {
            Err("tensors are binary and do not go to standard output: name a file (`./-` for one called `-`)")
        }
        false => Ok(path),
    })
}

/// Which model, and where it runs.
#[derive(Debug, clap::Args)]
pub(crate) struct ModelArgs {
    /// Model folder, Hugging Face's or MLX's [default: the shipped storyteller]
    #[arg(short, long, value_name = "DIR", env = "UNIMLX_MODEL")]
    pub(crate) model: Option<PathBuf>,

    /// Where to compute; `auto` is a GPU if there is one
    #[arg(long, value_enum, default_value_t = On::Auto, env = "UNIMLX_DEVICE")]
    pub(crate) device: On,

    /// Threads of the CPU path [default: all cores]
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) threads: Option<usize>,

    /// One kernel per operation on the GPU, to see what fusion gains
    #[arg(long)]
    pub(crate) no_fuse: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum On {
    Auto,
    Cpu,
    Gpu,
}

/// Which tokens may be drawn.
#[derive(Debug, clap::Args)]
pub(crate) struct FilterArgs {
    /// Choose among the K likeliest tokens; 0 is off
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Choose among the likeliest tokens that make up this much probability; 1 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f32>,
    /// Leave out tokens less likely than this part of the likeliest; 0 is off
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f32>,
}

impl FilterArgs {
    /// Options, overruled by flags.
    pub(crate) fn over(&self, options: GenerateOptions) -> GenerateOptions {
        GenerateOptions {
            top_k: self.top_k.unwrap_or(options.top_k),
            top_p: self.top_p.unwrap_or(options.top_p),
            min_p: self.min_p.unwrap_or(options.min_p),
            ..options
        }
    }
}

/// How the next token is chosen.
#[derive(Debug, clap::Args)]
pub(crate) struct SamplingArgs {
    /// 0 takes the likeliest token; higher is bolder [default: as the model's files say, or 0]
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temp: Option<f32>,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// Penalise tokens that are in the text already, by dividing their logits; 1 is off
    #[arg(long, value_name = "R", allow_negative_numbers = true)]
    pub(crate) repeat_penalty: Option<f32>,
    /// The same seed gives the same text [default: from the clock]
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Stop before this text (may be given several times)
    #[arg(long, value_name = "TEXT")]
    pub(crate) stop: Vec<String>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct KvArgs {
    /// How to keep keys and values: f32, f16, int8, k8v4, int4, k4v3, or as mlx-lm does: mlx8, mlx4 [default: f16 on a
    /// GPU, f32 on the CPU]. Of several kinds, each is for one layer, and the last for all that are left
    #[arg(long = "kv", value_name = "KIND,..", value_delimiter = ',', env = "UNIMLX_KV")]
    pub(crate) kinds: Vec<KvKind>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct GenerateArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// The text to continue; `-` reads it from standard input, and so does a pipe if -m is given
    #[arg(short, long, value_name = "TEXT", conflicts_with_all = ["tokens", "file"])]
    pub(crate) prompt: Option<String>,
    /// Read the text from a file; `-` is standard input
    #[arg(short, long, value_name = "FILE", conflicts_with = "tokens")]
    pub(crate) file: Option<PathBuf>,
    /// Token ids instead of text
    #[arg(long, value_name = "1,2,3", value_delimiter = ',')]
    pub(crate) tokens: Vec<u32>,
    /// Put the text into the model's chat template, as a user's message
    #[arg(long, conflicts_with = "tokens")]
    pub(crate) chat: bool,
    /// Keep what the model remembers of the prompt in a file: if it is there already, only what the prompt has
    /// beyond it is read. The file then holds this prompt, whatever it held before
    #[arg(long, value_name = "FILE", value_parser = tensors())]
    pub(crate) prompt_cache: Option<PathBuf>,
    /// Tokens to generate at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 512)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
    /// Go on after an end-of-text token
    #[arg(long)]
    pub(crate) ignore_eos: bool,
    /// Print one JSON object when done: ids, text, counts, speed
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct ChatArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// System prompt: what the model is told before the chat begins
    #[arg(long, value_name = "TEXT")]
    pub(crate) system: Option<String>,
    /// Tokens of an answer at most
    #[arg(short = 'n', long, value_name = "N", default_value_t = 1024)]
    pub(crate) max_tokens: usize,
    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,
}

#[derive(Debug, clap::Args)]
pub(crate) struct InfoArgs {
    /// Also say what is in a model folder, and how much context fits into memory here
    #[arg(short, long, value_name = "DIR", env = "UNIMLX_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
    /// Also measure how fast tensors are written, and try every kernel
    #[arg(long)]
    pub(crate) measure: bool,
    /// Of the kernels, try only those whose name or op's name contains this
    #[arg(long, value_name = "NAME", requires = "measure")]
    pub(crate) only: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FitArgs {
    /// Model folder [default: the shipped storyteller]
    #[arg(short, long, value_name = "DIR", env = "UNIMLX_MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// The shape of a published model instead, such as llama-8b (`bench` knows them), or a config.json
    #[arg(long, value_name = "NAME", conflicts_with = "model")]
    pub(crate) config: Option<String>,
    #[arg(long, value_name = "KIND", help = QUANT, requires = "config")]
    pub(crate) quant: Option<String>,
    /// Tokens of prompt and answer together [default: the model's own limit]
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=0xffff_ffff))]
    pub(crate) context: Option<usize>,
    /// Memory available, in GB [default: what can be found out]
    #[arg(long, value_name = "GB", allow_negative_numbers = true)]
    pub(crate) memory: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
    Csv,
    Md,
}

/// Options of `bench` that say which rates to measure, and mean nothing where none are.
const RATES: [&str; 10] =
    ["prompt", "generate", "depth", "batch", "temp", "top_k", "top_p", "min_p", "tune", "profile"];

#[derive(Debug, clap::Args)]
pub(crate) struct BenchArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// A published model's shape with random weights made on the device: llama-8b, qwen3-4b, ..., or the
    /// path of any config.json
    #[arg(long, value_name = "NAME", group = "shape")]
    pub(crate) config: Option<String>,
    #[arg(long, value_name = "KIND", help = QUANT, requires = "shape")]
    pub(crate) quant: Option<String>,
    /// Tokens of the prompts; 0 leaves one out
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "512")]
    pub(crate) prompt: Vec<usize>,
    /// Tokens to generate; 0 leaves one out
    #[arg(short = 'n', long, value_name = "N,..", value_delimiter = ',', default_value = "128")]
    pub(crate) generate: Vec<usize>,
    /// Tokens in the cache before either begins
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "0")]
    pub(crate) depth: Vec<usize>,
    /// Sequences to generate at a time, 1 to 8; the rate is of all together
    #[arg(short, long, value_name = "N,..", value_delimiter = ',', default_value = "1")]
    pub(crate) batch: Vec<usize>,
    /// Timed runs, after one to warm up
    #[arg(short, long, value_name = "N", default_value_t = 3)]
    pub(crate) repetitions: usize,
    /// Draw tokens at this temperature, whatever the model's files say; 0 takes the likeliest
    #[arg(long, value_name = "T", default_value_t = 0.0, allow_negative_numbers = true)]
    pub(crate) temp: f32,
    #[command(flatten)]
    pub(crate) filters: FilterArgs,
    /// First measure how kernels are best arranged on this GPU for steps of --batch sequences, and keep that for later
    /// runs of any command
    #[arg(long)]
    pub(crate) tune: bool,
    /// Then time each kernel of a prompt and of a token (needs a GPU with timestamps)
    #[arg(long)]
    pub(crate) profile: bool,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// How to print: one JSON object per line, comma-separated values, markdown
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Instead of rates, time the first token after a prompt of N: plans and pipelines count, loading does not
    #[arg(long, value_name = "N", conflicts_with_all = RATES, conflicts_with_all = ["repetitions", "roof", "gemm"])]
    pub(crate) first: Option<usize>,
    /// Instead of a model, time a product of x [M, K] and a weight [N, K] on the GPU [--quant: default f16]
    #[arg(long, value_name = "M,N,K", value_delimiter = ',', group = "shape", conflicts_with_all = RATES, conflicts_with_all = ["config", "roof"])]
    pub(crate) gemm: Option<Vec<usize>>,
    /// Measure what the GPU can do at best, instead of a model
    #[arg(long, conflicts_with_all = RATES, conflicts_with = "repetitions")]
    pub(crate) roof: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct LogitsArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Token ids of the prompt
    #[arg(long, value_name = "1,2,3", value_delimiter = ',', required = true)]
    pub(crate) tokens: Vec<u32>,
    /// File to write: tensor `logits`, f32 [n_tokens, vocab]
    #[arg(short, long, value_name = "FILE", value_parser = tensors())]
    pub(crate) output: PathBuf,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Print one JSON object when done
    #[arg(long)]
    pub(crate) json: bool,
}

#[cfg(feature = "serve")]
#[derive(Debug, clap::Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Address to listen at; one that other machines can reach needs a key
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", env = "UNIMLX_HOST")]
    pub(crate) host: std::net::IpAddr,
    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value_t = 8080, env = "UNIMLX_PORT")]
    pub(crate) port: u16,
    /// A key that requests must bring (may be given several times)
    #[arg(long, value_name = "KEY", env = "UNIMLX_API_KEY", hide_env_values = true)]
    pub(crate) api_key: Vec<String>,
    /// A file with a key in each line
    #[arg(long, value_name = "FILE")]
    pub(crate) api_key_file: Option<PathBuf>,
    /// Listen at an address that other machines can reach, without any key
    #[arg(long)]
    pub(crate) insecure_no_auth: bool,
    /// What requests call the model (may be given several times) [default: the folder's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) served_model_name: Vec<String>,
    /// Answer whatever model a request names
    #[arg(long)]
    pub(crate) any_model: bool,
    /// Answers at once
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = RangedU64ValueParser::<usize>::new().range(1..=8))]
    pub(crate) parallel: usize,
    /// Requests that may wait; more are told to come back later
    #[arg(long, value_name = "N", default_value_t = 128)]
    pub(crate) queue: usize,
    /// Tokens of prompt and answer together [default: the model's own limit]
    #[arg(short, long, value_name = "N", value_parser = RangedU64ValueParser::<usize>::new().range(1..=0xffff_ffff))]
    pub(crate) context: Option<usize>,
    #[command(flatten)]
    pub(crate) kv: KvArgs,
    /// Read every prompt from its beginning, whatever the cache has of it
    #[arg(long)]
    pub(crate) no_prefix_cache: bool,
    /// A name that requests may call this server by, besides localhost (may be given several times)
    #[arg(long, value_name = "NAME")]
    pub(crate) allowed_host: Vec<String>,
    /// An origin whose web pages may use this server (may be given several times); * is all
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Vec<String>,
    /// Size of a request at most
    #[arg(long, value_name = "MIB", default_value_t = 16, value_parser = RangedU64ValueParser::<usize>::new().range(1..=1024))]
    pub(crate) body_limit: usize,
    /// Memory for responses that clients may refer to later; 0 keeps none
    #[arg(long, value_name = "MIB", default_value_t = 64, value_parser = RangedU64ValueParser::<usize>::new().range(..=65536))]
    pub(crate) keep_responses: usize,
    /// Time that answers have to end after SIGTERM or Ctrl-C; a second one ends at once
    #[arg(long, value_name = "SECONDS", default_value_t = 25)]
    pub(crate) shutdown_timeout: u64,
}

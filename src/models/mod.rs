//! Architectures, one per file, each of which reads like its paper.
//!
//! A new one is a file and a line in [`ARCHITECTURES`].

mod llama;
mod mistral;
mod model;
mod qwen2;
mod qwen3;

pub(crate) use model::Architecture;
pub use model::{LoadOptions, Model};

use crate::error::{Error, Result};
use crate::io::ModelConfig;
use crate::nn::Weights;

type Loader = fn(&mut Weights<'_>, &ModelConfig) -> Result<Box<dyn Architecture>>;

/// `model_type` to loader.
const ARCHITECTURES: &[(&str, Loader)] = &[
    ("llama", |w, c| Ok(Box::new(llama::Llama::load(w, c)?))),
    ("mistral", |w, c| Ok(Box::new(mistral::Mistral::load(w, c)?))),
    ("qwen2", |w, c| Ok(Box::new(qwen2::Qwen2::load(w, c)?))),
    ("qwen3", |w, c| Ok(Box::new(qwen3::Qwen3::load(w, c)?))),
];

/// The values of `model_type` that can be run.
pub fn model_types() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|(name, _)| *name)
}

fn loader(model_type: &str) -> Result<Loader> {
    match ARCHITECTURES.iter().find(|(name, _)| *name == model_type) {
        Some(&(_, loader)) => Ok(loader),
        None => {
            let known: Vec<_> = model_types().collect();
            let what = format!("config.json: `model_type`: `{model_type}`; known are {}", known.join(", "));
            Err(Error::unsupported(what))
        }
    }
}

//! The gated feed-forward layer.

use super::linear::{Linear, Linears};
use super::weights::Weights;
use crate::array::MLXArray;
use crate::error::{Error, Result};
use crate::io::ModelConfig;
use crate::ops::{self, GateKind};

/// SwiGLU and its relatives: `down(act(gate(x)) * up(x))`.
pub(crate) struct Mlp {
    gate_up_proj: Linears<2>,
    down_proj: Linear,
    act: GateKind,
}

impl Mlp {
    pub(crate) fn load(weights: &mut Weights<'_>, path: &str, config: &ModelConfig) -> Result<Self> {
        let (hidden, inner, bias) = (config.hidden_size, config.intermediate_size, config.mlp_bias);
        Ok(Self {
            gate_up_proj: Linears::load(
                weights,
                path,
                [("gate_proj", inner), ("up_proj", inner)],
                hidden,
                bias,
            )?,
            down_proj: Linear::load(weights, &format!("{path}.down_proj"), (hidden, inner), bias)?,
            act: activation(&config.hidden_act)?,
        })
    }

    /// `[t, hidden] -> [t, hidden]`
    pub(crate) fn forward(&self, x: &MLXArray) -> MLXArray {
        let [gate, up] = self.gate_up_proj.forward(x); // [t, intermediate] each
        let inner = MLXArray::apply(ops::Gate { kind: self.act }, &[&gate, &up]); // [t, intermediate]
        self.down_proj.forward(&inner)
    }
}

pub(crate) fn activation(name: &str) -> Result<GateKind> {
    match name {
        "silu" | "swish" => Ok(GateKind::Silu),
        "gelu" => Ok(GateKind::Gelu),
        "gelu_pytorch_tanh" | "gelu_new" | "gelu_fast" => Ok(GateKind::GeluTanh),
        _ => Err(Error::unsupported(format!("config.json: `hidden_act` `{name}`"))),
    }
}

//! Rotary position embedding as configurations spell it.
//!
//! The same facts appear in three places: `rope_theta` beside `rope_scaling` (most files),
//! `rope_parameters` that holds both (newer files), and `rope_parameters` with one object per layer type.
//! The kind is called `rope_type` or, in older files, `type`.

use super::json::Fields;
use crate::error::Result;

/// Frequencies of rotary position embedding.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rope {
    /// Base of the geometric sequence of wavelengths.
    pub theta: f64,
    /// Share of each head that is rotated, in (0, 1].
    pub partial_rotary_factor: f64,
    /// How frequencies are stretched to contexts longer than those of training.
    pub scaling: RopeScaling,
}

/// How rotary frequencies are stretched to longer contexts; names as in `transformers`.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum RopeScaling {
    /// Not at all.
    Default,
    /// Positions divided by `factor`.
    Linear {
        /// How many times longer the context is.
        factor: f64,
    },
    /// Base grown with the sequence once it is longer than the original context.
    Dynamic {
        /// How many times longer the context is.
        factor: f64,
        /// Context length of training.
        original_max_position_embeddings: usize,
    },
    /// Low frequencies divided by `factor`, high ones kept, a ramp between (Llama 3).
    Llama3 {
        /// Divisor of the low frequencies.
        factor: f64,
        /// Wavelengths longer than the original context over this are divided.
        low_freq_factor: f64,
        /// Wavelengths shorter than the original context over this are kept.
        high_freq_factor: f64,
        /// Context length of training.
        original_max_position_embeddings: usize,
    },
    /// YaRN: a ramp between interpolation and extrapolation, and a temperature on attention.
    Yarn {
        /// How many times longer the context is.
        factor: f64,
        /// Context length of training.
        original_max_position_embeddings: usize,
        /// Rotations above which a frequency is kept.
        beta_fast: f64,
        /// Rotations below which a frequency is divided.
        beta_slow: f64,
        /// Factor on cos and sin, if the file overrides the formula.
        attention_factor: Option<f64>,
        /// Numerator's coefficient of the attention factor (DeepSeek).
        mscale: Option<f64>,
        /// Denominator's coefficient of the attention factor (DeepSeek).
        mscale_all_dim: Option<f64>,
        /// Whether the ramp's ends are rounded to whole dimensions.
        truncate: bool,
    },
    /// A divisor per frequency, one list for short and one for long sequences (Phi 3).
    LongRope {
        /// Divisors up to the original context length.
        short_factor: Vec<f64>,
        /// Divisors beyond it.
        long_factor: Vec<f64>,
        /// Context length of training.
        original_max_position_embeddings: usize,
        /// How many times longer the context is, if the file says so.
        factor: Option<f64>,
        /// Factor on cos and sin, if the file overrides the formula.
        attention_factor: Option<f64>,
    },
}

const POSITIVE: &str = "a positive number";

/// The rope of full-attention layers, and that of sliding-window layers where it differs.
pub(super) fn parse(config: &Fields<'_>) -> Result<(Rope, Option<Rope>)> {
    if let Some(nested) = config.object("rope_parameters")? {
        if let Some(full) = nested.object("full_attention")? {
            let sliding = nested.object("sliding_attention")?.map(|f| rope(config, &f)).transpose()?;
            return Ok((rope(config, &full)?, sliding));
        }
        return Ok((rope(config, &nested)?, local(config)?));
    }
    match config.object("rope_scaling")? {
        Some(fields) => Ok((rope(config, &fields)?, local(config)?)),
        None => {
            let (theta, partial_rotary_factor) = base(config, None)?;
            Ok((Rope { theta, partial_rotary_factor, scaling: RopeScaling::Default }, local(config)?))
        }
    }
}

/// Gemma 3's older spelling of the sliding layers' base.
fn local(config: &Fields<'_>) -> Result<Option<Rope>> {
    let theta = config.number("rope_local_base_freq", POSITIVE, |x| x > 0.0)?;
    Ok(theta.map(|theta| Rope { theta, partial_rotary_factor: 1.0, scaling: RopeScaling::Default }))
}

fn base(config: &Fields<'_>, nested: Option<&Fields<'_>>) -> Result<(f64, f64)> {
    let find = |field: &str, wanted: &str, check: fn(f64) -> bool| match nested {
        Some(fields) => Ok(fields.number(field, wanted, check)?.or(config.number(field, wanted, check)?)),
        None => config.number(field, wanted, check),
    };
    let theta = find("rope_theta", POSITIVE, |x| x > 0.0)?.unwrap_or(10_000.0);
    let partial = find("partial_rotary_factor", "a number in (0, 1]", |x| x > 0.0 && x <= 1.0)?;
    Ok((theta, partial.unwrap_or(1.0)))
}

fn rope(config: &Fields<'_>, f: &Fields<'_>) -> Result<Rope> {
    let (theta, partial_rotary_factor) = base(config, Some(f))?;
    let key = if f.raw("rope_type").is_some() { "rope_type" } else { "type" };
    let kind: String = f.or(key, "default".to_owned())?;
    let positive = |field: &str| f.number(field, POSITIVE, |x| x > 0.0);
    let required = |field: &str| positive(field)?.ok_or_else(|| f.missing(field));
    let original = || -> Result<usize> {
        let field = "original_max_position_embeddings";
        let lengths = 1..=1 << 30;
        if let Some(n) = f.count(field, lengths.clone())?.or(config.count(field, lengths.clone())?) {
            return Ok(n);
        }
        config.count("max_position_embeddings", lengths)?.ok_or_else(|| f.missing(field))
    };
    let scaling = match kind.as_str() {
        "default" => RopeScaling::Default,
        "linear" => RopeScaling::Linear { factor: required("factor")? },
        "dynamic" => RopeScaling::Dynamic {
            factor: required("factor")?,
            original_max_position_embeddings: original()?,
        },
        "llama3" => {
            let (low, high) = (required("low_freq_factor")?, required("high_freq_factor")?);
            if low >= high {
                return Err(
                    f.error("low_freq_factor", format_args!("{low} is not below high_freq_factor {high}"))
                );
            }
            RopeScaling::Llama3 {
                factor: required("factor")?,
                low_freq_factor: low,
                high_freq_factor: high,
                original_max_position_embeddings: original()?,
            }
        }
        "yarn" => RopeScaling::Yarn {
            factor: required("factor")?,
            original_max_position_embeddings: original()?,
            beta_fast: positive("beta_fast")?.unwrap_or(32.0),
            beta_slow: positive("beta_slow")?.unwrap_or(1.0),
            attention_factor: positive("attention_factor")?,
            mscale: positive("mscale")?,
            mscale_all_dim: f.number("mscale_all_dim", "a number of at least 0", |x| x >= 0.0)?,
            truncate: f.or("truncate", true)?,
        },
        "longrope" | "su" => RopeScaling::LongRope {
            short_factor: factors(f, "short_factor")?,
            long_factor: factors(f, "long_factor")?,
            original_max_position_embeddings: original()?,
            factor: positive("factor")?,
            attention_factor: positive("attention_factor")?,
        },
        other => return Err(f.unsupported(key, format_args!("rope of type `{other}`"))),
    };
    Ok(Rope { theta, partial_rotary_factor, scaling })
}

fn factors(f: &Fields<'_>, field: &str) -> Result<Vec<f64>> {
    let list: Vec<f64> = f.optional(field)?.ok_or_else(|| f.missing(field))?;
    match list.iter().find(|x| !(x.is_finite() && **x > 0.0)) {
        Some(bad) => Err(f.error(field, format_args!("expected positive numbers, found {bad}"))),
        None => Ok(list),
    }
}

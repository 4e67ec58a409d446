//! `POST /v1/embeddings`.

use super::app::App;
use super::completions::prompts_of;
use super::engine::Pooling;
use super::error::ApiError;
use super::fields::Fields;
use super::params::model;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde_json::{Value, json};
use std::sync::Arc;

type Result<T> = std::result::Result<T, ApiError>;

/// Texts of one request at most, and tokens of all of them: both as OpenAI has it.
const MOST: usize = 2048;
const MOST_TOKENS: usize = 300_000;

struct Prepared {
    model: String,
    inputs: Vec<Vec<u32>>,
    pooling: Pooling,
    base64: bool,
    /// Numbers of each vector that are wanted.
    dimensions: Option<usize>,
}

pub(super) async fn embeddings(State(app): State<Arc<App>>, request: Request<Body>) -> Result<Json<Value>> {
    let Prepared { model, inputs, pooling, base64, dimensions } = app.prepare(request, prepare).await?;
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    let Some(work) = app.engine.embed(inputs, pooling) else {
        let message = "This engine gives no embeddings.";
        return Err(ApiError::new(StatusCode::NOT_IMPLEMENTED, Some("not_implemented"), message));
    };
    let mut vectors = app.until_end(async { work.await.map_err(ApiError::from) }).await?;
    if let Some(n) = dimensions {
        let width = vectors.first().map_or(0, Vec::len);
        if n > width {
            let message = format!("`dimensions` is {n}, but the model's vectors have {width}");
            return Err(ApiError::value("dimensions", message));
        }
        vectors.iter_mut().for_each(|vector| shorten(vector, n));
    }
    let data = vectors.iter().enumerate().map(|(index, vector)| {
        let embedding = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
            BASE64_STANDARD.encode(bytes).into()
        } else {
            json!(vector)
        };
        json!({ "object": "embedding", "index": index, "embedding": embedding })
    });
    let data: Vec<Value> = data.collect();
    let usage = json!({ "prompt_tokens": tokens, "total_tokens": tokens });
    Ok(Json(json!({ "object": "list", "model": model, "data": data, "usage": usage })))
}

/// The first `n` numbers, at length 1 again.
fn shorten(vector: &mut Vec<f32>, n: usize) {
    vector.truncate(n);
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x /= norm);
}

fn prepare(app: &App, body: Value) -> Result<Prepared> {
    let mut fields = Fields::new(body, "")?;
    let model = model(&mut fields, app.card(), app.options.any_model)?;
    let base64 = match fields.string("encoding_format")?.as_deref() {
        None | Some("float") => false,
        Some("base64") => true,
        Some(_) => {
            return Err(ApiError::value("encoding_format", "`encoding_format` must be `float` or `base64`"));
        }
    };
    let pooling = match fields.string("pooling")?.as_deref() {
        None | Some("mean") => Pooling::Mean,
        Some("last") => Pooling::Last,
        Some(_) => return Err(ApiError::value("pooling", "`pooling` must be `mean` or `last`")),
    };
    let dimensions = fields.count("dimensions", 1, 1 << 20)?;
    fields.string("user")?;
    let input = fields.raw("input");
    let input = fields.required("input", input)?;
    fields.finish()?;
    let inputs = prompts_of(app, input, "input", MOST)?;
    for input in &inputs {
        app.fits(input, "input")?;
    }
    let tokens: usize = inputs.iter().map(Vec::len).sum();
    if tokens > MOST_TOKENS {
        let message = format!("`input` has {tokens} tokens in all, at most {MOST_TOKENS} are possible");
        return Err(ApiError::value("input", message));
    }
    Ok(Prepared { model, inputs, pooling, base64, dimensions })
}

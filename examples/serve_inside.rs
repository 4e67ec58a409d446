//! The OpenAI API inside an application: without a port, and beside routes of its own.
//!
//! `cargo run --release --example serve_inside`; with `-- --port 8080` it stays and listens.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::Request;
use axum::routing::get;
use tower::ServiceExt;
use unimlx::serve::{Card, EngineOptions, ModelEngine, router};
use unimlx::{Checkpoint, Error, GenerateOptions, LoadOptions, Model};

fn engine() -> unimlx::Result<ModelEngine> {
    let checkpoint = Checkpoint::open("examples/storyteller")?;
    let model = Model::from_checkpoint(&checkpoint, LoadOptions::default())?;
    let card = Card {
        names: vec!["storyteller".to_owned()],
        tokenizer: checkpoint.tokenizer()?,
        template: checkpoint.chat_template()?,
        context_length: model.context_length(),
        vocab_size: model.config().vocab_size,
        defaults: GenerateOptions::suggested(model.generation_config()),
    };
    ModelEngine::new(&model, card, EngineOptions::default())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let port = match &args[..] {
        [] => None,
        [flag, port] if flag == "--port" => {
            Some(port.parse::<u16>().map_err(|e| Error::input(format!("--port {port}: {e}")))?)
        }
        _ => return Err(Error::input(format!("{}: expected nothing or --port N", args.join(" "))).into()),
    };
    let api = router(engine()?);

    // No port: a request is a value, and so is the response. A desktop application's window can ask like this.
    let body = r#"{"model": "storyteller", "max_tokens": 40,
                   "messages": [{"role": "user", "content": "Tell me a story."}]}"#;
    let request = Request::post("/v1/chat/completions").body(Body::from(body))?;
    let response = api.clone().oneshot(request).await?;
    let answer: serde_json::Value = serde_json::from_slice(&to_bytes(response.into_body(), 1 << 20).await?)?;
    println!("{}", answer["choices"][0]["message"]["content"]);

    // Beside an application's own routes, under a path of its choice.
    let app = Router::new().route("/", get(|| async { "an application" })).nest("/ai", api);
    let models = Request::get("/ai/v1/models").body(Body::empty())?;
    println!("GET /ai/v1/models: {}", app.clone().oneshot(models).await?.status());

    if let Some(port) = port {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await;
        let listener = listener.map_err(|e| Error::io(format!("port {port}: {e}")))?;
        axum::serve(listener, app).await?;
    }
    Ok(())
}

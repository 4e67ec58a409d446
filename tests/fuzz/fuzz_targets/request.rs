//! Any bytes as the body of a request to any route, over the mock engine: never a panic, never the server's fault.

#![no_main]

use axum::body::Body;
use axum::http::Request;
use libfuzzer_sys::fuzz_target;
use std::cell::LazyCell;
use tower::ServiceExt;
use unimlx::serve::{MockEngine, Script, router};

const PATHS: [&str; 6] = [
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/embeddings",
    "/tokenize",
    "/detokenize",
];

thread_local! {
    static RUNTIME: LazyCell<tokio::runtime::Runtime> =
        LazyCell::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    static ROUTER: LazyCell<axum::Router> = LazyCell::new(|| {
        let answer = "<think>hm</think> Well. <tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>";
        router(MockEngine::new(Script { answer: Some(answer.into()), ..Script::default() }).unwrap())
    });
}

fuzz_target!(|input: (u8, &[u8])| {
    let (path, body) = (PATHS[usize::from(input.0) % PATHS.len()], input.1);
    let router = ROUTER.with(|router| (**router).clone());
    RUNTIME.with(|runtime| {
        runtime.block_on(async {
            let request = Request::post(path).body(Body::from(body.to_vec())).unwrap();
            let response = router.oneshot(request).await.unwrap();
            let status = response.status();
            assert!(status.as_u16() < 500, "{status}: {path} {}", String::from_utf8_lossy(body));
            axum::body::to_bytes(response.into_body(), usize::MAX).await.unwrap();
        });
    });
});

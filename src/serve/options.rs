//! [`Options`]: who may ask, and how much.

use std::time::Duration;

/// Who may ask, and how much. The default is for use inside an application: no keys, any `Host`, no CORS.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Options {
    /// If there are any, every route but `/health` wants one of them: `Authorization: Bearer KEY`.
    pub api_keys: Vec<String>,
    /// Names that the `Host` header may have, without port; `None` allows all. With a list, a web page cannot reach a
    /// server on this machine through a name of its own (DNS rebinding).
    pub hosts: Option<Vec<String>>,
    /// Origins whose pages may ask and read answers; `*` is all. By default only pages that this server's own host
    /// has sent may ask.
    pub cors_origins: Vec<String>,
    /// Answer requests for any model name with the one there is.
    pub any_model: bool,
    /// Bytes of a body.
    pub body_limit: usize,
    /// Time for a body to come.
    pub body_timeout: Duration,
    /// Time for a request's head to come, and for the next request on an idle connection.
    pub header_timeout: Duration,
    /// Time in which a reader must take 64 KiB from a full socket, or all there is.
    pub write_timeout: Duration,
    /// Connections at once, at least 1.
    pub connections: usize,
    /// Bytes of responses that are kept in memory, for their callers to refer to; 0 keeps none.
    pub kept_responses: usize,
    /// Time that answers have to end when the server is asked to.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            hosts: None,
            cors_origins: Vec::new(),
            any_model: false,
            body_limit: 16 << 20,
            body_timeout: Duration::from_secs(30),
            header_timeout: Duration::from_secs(10),
            write_timeout: Duration::from_secs(30),
            connections: 1024,
            kept_responses: 64 << 20,
            drain: Duration::from_secs(25),
        }
    }
}

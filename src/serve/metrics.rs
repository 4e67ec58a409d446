//! Prometheus metrics, by our names and by vLLM's: autoscalers and gateways read those.

use super::engine::Engine;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in seconds.
const BOUNDS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0, 120.0];

/// A histogram of times.
#[derive(Debug, Default)]
pub(super) struct Histogram {
    counts: [AtomicU64; BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    pub(super) fn observe(&self, time: Duration) {
        let bucket = BOUNDS.iter().position(|&b| time.as_secs_f64() <= b).unwrap_or(BOUNDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }

    fn write(&self, out: &mut String, name: &str, model: &str) {
        let mut sum = 0;
        let _ = writeln!(out, "# TYPE {name} histogram");
        for (i, count) in self.counts.iter().enumerate() {
            sum += count.load(Ordering::Relaxed);
            let bound = BOUNDS.get(i).map_or("+Inf".to_owned(), f64::to_string);
            let _ = writeln!(out, "{name}_bucket{{model_name=\"{model}\",le=\"{bound}\"}} {sum}");
        }
        let seconds = self.micros.load(Ordering::Relaxed) as f64 / 1e6;
        let _ = writeln!(out, "{name}_sum{{model_name=\"{model}\"}} {seconds}");
        let _ = writeln!(out, "{name}_count{{model_name=\"{model}\"}} {sum}");
    }
}

/// How requests end.
pub(super) const REASONS: [&str; 4] = ["stop", "length", "abort", "error"];

/// What has happened since the start.
#[derive(Debug, Default)]
pub(super) struct Metrics {
    pub(super) prompt_tokens: AtomicU64,
    pub(super) cached_tokens: AtomicU64,
    pub(super) generation_tokens: AtomicU64,
    pub(super) refused: AtomicU64,
    finished: [AtomicU64; REASONS.len()],
    pub(super) first_token: Histogram,
    pub(super) between_tokens: Histogram,
    pub(super) whole: Histogram,
}

impl Metrics {
    pub(super) fn add(counter: &AtomicU64, n: usize) {
        counter.fetch_add(n as u64, Ordering::Relaxed);
    }

    pub(super) fn finish(&self, reason: &str) {
        if let Some(i) = REASONS.iter().position(|r| *r == reason) {
            Self::add(&self.finished[i], 1);
        }
    }

    /// The text format 0.0.4.
    pub(super) fn text(&self, engine: &dyn Engine) -> String {
        let mut out = String::with_capacity(8 << 10);
        let model: String = engine.card().name().chars().filter(|c| !c.is_control()).collect();
        let model = model.replace('\\', "\\\\").replace('"', "\\\"");
        let load = engine.load();
        let gauges = [
            ("requests_running", "num_requests_running", load.running as f64),
            ("requests_waiting", "num_requests_waiting", load.waiting as f64),
            ("kv_cache_usage_ratio", "kv_cache_usage_perc", load.cache_usage()),
        ];
        for (ours, theirs, value) in gauges {
            for name in [format!("unimlx_{ours}"), format!("vllm:{theirs}")] {
                let _ = writeln!(out, "# TYPE {name} gauge\n{name}{{model_name=\"{model}\"}} {value}");
            }
        }
        let counters = [
            ("prompt_tokens_total", "prompt_tokens_total", &self.prompt_tokens),
            ("generation_tokens_total", "generation_tokens_total", &self.generation_tokens),
            ("prefix_cache_queries_total", "prefix_cache_queries_total", &self.prompt_tokens),
            ("prefix_cache_hits_total", "prefix_cache_hits_total", &self.cached_tokens),
        ];
        for (ours, theirs, counter) in counters {
            let value = counter.load(Ordering::Relaxed);
            for name in [format!("unimlx_{ours}"), format!("vllm:{theirs}")] {
                let _ = writeln!(out, "# TYPE {name} counter\n{name}{{model_name=\"{model}\"}} {value}");
            }
        }
        for name in ["unimlx_preemptions_total", "vllm:num_preemptions_total"] {
            let value = load.preempted;
            let _ = writeln!(out, "# TYPE {name} counter\n{name}{{model_name=\"{model}\"}} {value}");
        }
        let refused = self.refused.load(Ordering::Relaxed);
        let _ = writeln!(
            out,
            "# TYPE unimlx_requests_refused_total counter\nunimlx_requests_refused_total{{model_name=\"{model}\"}} {refused}"
        );
        for (name, label) in
            [("unimlx_requests_finished_total", "reason"), ("vllm:request_success_total", "finished_reason")]
        {
            let _ = writeln!(out, "# TYPE {name} counter");
            for (reason, count) in REASONS.iter().zip(&self.finished) {
                let count = count.load(Ordering::Relaxed);
                let _ = writeln!(out, "{name}{{model_name=\"{model}\",{label}=\"{reason}\"}} {count}");
            }
        }
        for (name, histogram) in [
            ("time_to_first_token_seconds", &self.first_token),
            ("inter_token_latency_seconds", &self.between_tokens),
            ("e2e_request_latency_seconds", &self.whole),
        ] {
            histogram.write(&mut out, &format!("unimlx_{name}"), &model);
            histogram.write(&mut out, &format!("vllm:{name}"), &model);
        }
        out
    }
}

//! How long the GPU takes, by its own clock.

use std::sync::Arc;
use std::time::Instant;

use super::encode::{Ready, Timer};
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Prepared};

/// Dispatches timed together; wgpu allows 4096 timestamps and each takes at most two.
const TIMED_AT_ONCE: usize = 1024;

impl Gpu {
    /// Runs all steps and returns the seconds that each dispatch took on the GPU, with its start-up.
    ///
    /// # Errors
    /// `is_unsupported`: the device has no timestamps; `is_device`.
    pub fn run_timed(self: &Arc<Self>, prepared: &Prepared) -> Result<Vec<(String, f64)>> {
        if !self.caps().timestamps {
            return Err(Error::unsupported(format!("{} cannot time kernels", self.name())));
        }
        let mut times = Vec::with_capacity(prepared.dispatches());
        for steps in prepared.chunks(TIMED_AT_ONCE) {
            // One timestamp per dispatch, and one before each run of dispatches.
            let mut names: Vec<Option<&String>> = Vec::new();
            let mut in_pass = false;
            for step in steps {
                if let Ready::Dispatch { name, .. } = step {
                    if !in_pass {
                        names.push(None);
                    }
                    names.push(Some(name));
                }
                in_pass = matches!(step, Ready::Dispatch { .. });
            }
            if names.is_empty() {
                let record =
                    |encoder: &mut wgpu::CommandEncoder| prepared.encode(encoder, steps, Timer::None);
                self.submit("submitting", record, |serial| prepared.used_by(serial))?;
                continue;
            }
            let stamps = self.stamps(prepared, names.len(), |encoder, timer| {
                prepared.encode(encoder, steps, Timer::Each(timer));
            })?;
            times.extend(names.iter().enumerate().filter_map(|(at, name)| {
                name.map(|name| (name.clone(), (stamps[at] - stamps[at - 1]).max(0.0)))
            }));
        }
        Ok(times)
    }

    /// Runs all steps in one submission and returns the seconds from the start of the first dispatch to the
    /// end of the last: by the GPU's clock, or by the host's where the device has no timestamps.
    ///
    /// # Errors
    /// `is_device`.
    pub fn run_elapsed(self: &Arc<Self>, prepared: &Prepared) -> Result<f64> {
        self.wait()?;
        if !self.caps().timestamps || prepared.dispatches() == 0 {
            let start = Instant::now();
            self.run(prepared)?;
            self.wait()?;
            return Ok(start.elapsed().as_secs_f64());
        }
        let stamps = self.stamps(prepared, 2, |encoder, timer| {
            let all = prepared.chunks(usize::MAX);
            all.for_each(|steps| prepared.encode(encoder, steps, Timer::Ends(timer)));
        })?;
        Ok((stamps[1] - stamps[0]).max(0.0))
    }

    /// Submits what `record` records with `count` timestamps, and returns them in seconds since the first.
    fn stamps(
        self: &Arc<Self>,
        prepared: &Prepared,
        count: usize,
        record: impl FnOnce(&mut wgpu::CommandEncoder, &wgpu::QuerySet),
    ) -> Result<Vec<f64>> {
        let bytes = count as u64 * 8;
        let count = count as u32;
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
        let timer = self.guarded("timing", || self.device.create_query_set(&descriptor))?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.create_buffer(bytes, usage)?;
        let readback = self.alloc_readback(bytes)?;
        let record = |encoder: &mut wgpu::CommandEncoder| {
            record(encoder, &timer);
            encoder.resolve_query_set(&timer, 0..count, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, readback.raw(), 0, bytes);
        };
        readback.used_by(self.submit("timing", record, |serial| prepared.used_by(serial))?);
        let ticks: Vec<u64> = self
            .read_vec(&readback)?
            .chunks_exact(8)
            .map(|tick| tick.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)))
            .collect();
        let seconds = f64::from(self.queue.get_timestamp_period()) * 1e-9;
        Ok(ticks.iter().map(|tick| tick.wrapping_sub(ticks[0]).cast_signed() as f64 * seconds).collect())
    }
}

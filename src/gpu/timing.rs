//! How long work takes, by the GPU's own clock.
//!
//! Two ways. [`Gpu::run_timed`] puts a timestamp around each dispatch: it says where the time goes, but a
//! timestamp waits for all before it and costs some microseconds itself. Two timestamps around a whole
//! submission cost next to nothing and say how long the GPU was busy.
//!
//! [`watch`] times whatever a piece of code runs, without that code knowing: the way to look into a
//! generator's steps.

use std::cell::RefCell;
use std::sync::Arc;
use std::time::Instant;

use super::encode::{Prepared, Ready, Tail};
use crate::error::{Error, Result};
use crate::gpu::{Buffer, Dispatch, Gpu};

/// Dispatches timed together; wgpu allows 4096 timestamps and each takes at most two.
const TIMED_AT_ONCE: usize = 1024;

/// A dispatch that ran.
pub(crate) struct Timed {
    pub(crate) dispatch: Dispatch,
    /// What it bound, in the order of [`Dispatch::binds`].
    pub(crate) buffers: Vec<Buffer>,
    /// From the end of the work before it to its own end.
    pub(crate) seconds: f64,
}

/// How closely to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Two timestamps per submission.
    Submissions,
    /// One timestamp per dispatch; each run is waited for.
    Dispatches,
}

/// What a watch has seen.
#[derive(Default)]
pub(crate) struct Seen {
    /// Seconds that the GPU was busy.
    pub(crate) seconds: f64,
    /// Recordings that ran.
    pub(crate) runs: usize,
    /// With [`Detail::Dispatches`], each of them in order.
    pub(crate) dispatches: Vec<Timed>,
}

/// A watch at work.
struct Watch {
    detail: Detail,
    seen: Seen,
    /// Timestamps of submissions, to be read when all is done.
    stamps: Vec<Buffer>,
}

thread_local! {
    static WATCH: RefCell<Option<Watch>> = const { RefCell::new(None) };
}

/// Ends the watch even if the work panics.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        WATCH.set(None);
    }
}

/// Runs `work` and times every recording that it runs on this thread. Watches do not nest: the inner one
/// ends the outer.
///
/// # Errors
/// `is_unsupported`: the device has no timestamps; whatever `work` returns.
pub(crate) fn watch(gpu: &Arc<Gpu>, detail: Detail, work: impl FnOnce() -> Result<()>) -> Result<Seen> {
    gpu.can_time()?;
    WATCH.set(Some(Watch { detail, seen: Seen::default(), stamps: Vec::new() }));
    let end = End;
    work()?;
    let watch = WATCH.take();
    drop(end);
    let Some(Watch { mut seen, stamps, .. }) = watch else { return Ok(Seen::default()) };
    let tick = gpu.tick();
    for stamps in stamps {
        let stamps = gpu.read_vec(&stamps)?;
        seen.seconds += stamp(&stamps, 1).saturating_sub(stamp(&stamps, 0)) as f64 * tick;
    }
    Ok(seen)
}

/// Runs a recording under this thread's watch, if there is one; the serial number of the last submission.
pub(super) fn watched(prepared: &Prepared, tail: Tail<'_>) -> Option<Result<u64>> {
    let detail = WATCH.with_borrow(|watch| watch.as_ref().map(|watch| watch.detail))?;
    note(|watch| watch.seen.runs += 1);
    Some(match detail {
        Detail::Submissions => span(prepared, tail),
        Detail::Dispatches => prepared.gpu.run_each(prepared, tail).map(|(timed, serial)| {
            note(|watch| {
                watch.seen.seconds += timed.iter().map(|t| t.seconds).sum::<f64>();
                watch.seen.dispatches.extend(timed);
            });
            serial
        }),
    })
}

fn note(change: impl FnOnce(&mut Watch)) {
    WATCH.with_borrow_mut(|watch| watch.as_mut().map(change));
}

/// Runs a recording with timestamps at the begin of its first pass and at the end of its last.
fn span(prepared: &Prepared, tail: Tail<'_>) -> Result<u64> {
    prepared.submit_chunks(prepared.max_dispatches, tail, |steps, tail| {
        if passes(steps) == 0 {
            return prepared.submit(steps, tail);
        }
        let (stamps, serial) =
            prepared.gpu.stamped(prepared, steps, tail, 2, |timer| Stamps::Ends { timer, begun: false })?;
        note(|watch| watch.stamps.push(stamps));
        Ok(serial)
    })
}

/// How many passes the steps are encoded as: runs of dispatches without a copy between them.
pub(super) fn passes(steps: &[Ready]) -> usize {
    let is = |step: &Ready| matches!(step, Ready::Dispatch { .. });
    (0..steps.len()).filter(|&i| is(&steps[i]) && (i == 0 || !is(&steps[i - 1]))).count()
}

/// Where timestamps go while steps are encoded.
pub(super) enum Stamps<'a> {
    None,
    /// Before the first dispatch of each pass and after every dispatch.
    Each {
        timer: &'a wgpu::QuerySet,
        next: u32,
    },
    /// At the begin of the first pass and the end of the last.
    Ends {
        timer: &'a wgpu::QuerySet,
        begun: bool,
    },
}

impl<'a> Stamps<'a> {
    /// What the next pass writes at its ends.
    pub(super) fn of_pass(&mut self, last: bool) -> Option<wgpu::ComputePassTimestampWrites<'a>> {
        let Self::Ends { timer, begun } = self else { return None };
        let first = !std::mem::replace(begun, true);
        (first || last).then_some(wgpu::ComputePassTimestampWrites {
            query_set: timer,
            beginning_of_pass_write_index: first.then_some(0),
            end_of_pass_write_index: last.then_some(1),
        })
    }

    /// Writes the next timestamp between dispatches.
    pub(super) fn write(&mut self, pass: &mut wgpu::ComputePass<'_>) {
        if let Self::Each { timer, next } = self {
            pass.write_timestamp(timer, *next);
            *next += 1;
        }
    }
}

/// Timestamp number `at` of those read back.
fn stamp(stamps: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(std::array::from_fn(|i| stamps[8 * at + i]))
}

impl Gpu {
    /// Runs all steps and returns the seconds that each dispatch took on the GPU, with its start-up.
    ///
    /// # Errors
    /// `is_unsupported`: the device has no timestamps; `is_device`.
    pub fn run_timed(self: &Arc<Self>, prepared: &Prepared) -> Result<Vec<(String, f64)>> {
        let (timed, _) = self.run_each(prepared, Tail::default())?;
        Ok(timed.into_iter().map(|t| (t.dispatch.name, t.seconds)).collect())
    }

    /// Runs all steps and returns the seconds from the start of the first dispatch to the end of the last: by
    /// the GPU's clock, or by the host's where the device has no timestamps.
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
        Ok(watch(self, Detail::Submissions, || self.run(prepared))?.seconds)
    }

    fn run_each(self: &Arc<Self>, prepared: &Prepared, tail: Tail<'_>) -> Result<(Vec<Timed>, u64)> {
        self.can_time()?;
        let tick = self.tick();
        let mut all = Vec::with_capacity(prepared.dispatches());
        let serial = prepared.submit_chunks(TIMED_AT_ONCE, tail, |steps, tail| {
            // One timestamp per dispatch, and one before each run of dispatches.
            let mut stamped: Vec<Option<&Dispatch>> = Vec::new();
            let mut in_pass = false;
            for step in steps {
                if let Ready::Dispatch { dispatch, .. } = step {
                    if !in_pass {
                        stamped.push(None);
                    }
                    stamped.push(Some(dispatch));
                }
                in_pass = matches!(step, Ready::Dispatch { .. });
            }
            if stamped.is_empty() {
                return prepared.submit(steps, tail);
            }
            let count = stamped.len() as u32;
            let (readback, serial) =
                self.stamped(prepared, steps, tail, count, |timer| Stamps::Each { timer, next: 0 })?;
            let stamps = self.read_vec(&readback)?;
            for (at, dispatch) in stamped.into_iter().enumerate() {
                let Some(dispatch) = dispatch else { continue };
                let ticks = stamp(&stamps, at).saturating_sub(stamp(&stamps, at - 1));
                all.push(Timed {
                    dispatch: dispatch.clone(),
                    buffers: dispatch.binds.iter().map(|b| prepared.buffers[b.slot].clone()).collect(),
                    seconds: ticks as f64 * tick,
                });
            }
            Ok(serial)
        })?;
        Ok((all, serial))
    }

    /// Submits steps with `count` timestamps; they are in the buffer when the submission of that number is
    /// done.
    fn stamped(
        self: &Arc<Self>,
        prepared: &Prepared,
        steps: &[Ready],
        tail: Tail<'_>,
        count: u32,
        stamps: impl for<'a> FnOnce(&'a wgpu::QuerySet) -> Stamps<'a>,
    ) -> Result<(Buffer, u64)> {
        let bytes = u64::from(count) * 8;
        let descriptor = wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count };
        let timer = self.guarded("timing", || self.device.create_query_set(&descriptor))?;
        let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
        let resolved = self.create_buffer(bytes, usage)?;
        let readback = self.alloc_readback(bytes)?;
        let record = |encoder: &mut wgpu::CommandEncoder| {
            prepared.encode(encoder, steps, stamps(&timer));
            encoder.resolve_query_set(&timer, 0..count, &resolved, 0);
            encoder.copy_buffer_to_buffer(&resolved, 0, readback.raw(), 0, bytes);
            tail.record(encoder);
        };
        let used = |serial| {
            prepared.used_by(serial);
            readback.used_by(serial);
        };
        let serial = self.submit_then("timing", record, &|| tail.call(), used)?;
        Ok((readback, serial))
    }

    fn can_time(&self) -> Result<()> {
        match self.caps().timestamps {
            true => Ok(()),
            false => Err(Error::unsupported(format!("{} cannot time kernels", self.name()))),
        }
    }

    /// Seconds per unit of a timestamp.
    fn tick(&self) -> f64 {
        f64::from(self.queue.get_timestamp_period()) * 1e-9
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::tests::{open, scale, upload};
    use crate::gpu::{Recording, Step};

    #[test]
    fn dispatches_are_timed() {
        let Some(gpu) = open(&[]) else { return };
        let n = 1 << 16;
        let buffers = [upload(&gpu, &vec![1; n]), gpu.alloc(4 * n as u64).unwrap()];
        let step = || Step::Dispatch(scale(n as u32, 1, 1, 0, 1));
        let copy = Step::Copy { src: 1, src_offset: 0, dst: 0, dst_offset: 0, bytes: 4 };
        let recording =
            Recording { buffers: vec![4 * n as u64; 2], steps: vec![step(), step(), copy, step()] };
        let prepared = gpu.prepare(&recording, &buffers).unwrap();
        if !gpu.caps().timestamps {
            assert!(gpu.run_timed(&prepared).unwrap_err().is_unsupported());
            return;
        }
        let times = gpu.run_timed(&prepared).unwrap();
        assert_eq!(times.len(), 3);
        assert!(
            times.iter().all(|(name, seconds)| name == "scale" && (0.0..1.0).contains(seconds)),
            "{times:?}"
        );
        assert!(times.iter().any(|(_, seconds)| *seconds > 0.0), "{times:?}");

        let twice = || gpu.run(&prepared).and_then(|()| gpu.run(&prepared));
        let seen = watch(&gpu, Detail::Submissions, twice).unwrap();
        assert!(seen.seconds > 0.0 && seen.dispatches.is_empty());
        let seen = watch(&gpu, Detail::Dispatches, twice).unwrap();
        assert_eq!(seen.dispatches.len(), 6);
        assert!(seen.dispatches[1].buffers[1].is_same(&buffers[1]));
        let failed = watch(&gpu, Detail::Submissions, || Err(crate::Error::input("stopped")));
        assert!(failed.is_err_and(|e| e.is_input()));

        let all = gpu.run_elapsed(&prepared).unwrap();
        assert!(all > 0.0 && all < 1.0, "{all}");
    }
}

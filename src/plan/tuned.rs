//! What a tuner found out, kept from one process to the next.
//!
//! For each use of an op (its parameters, the specs around it and the kernel that its own table names) the
//! arrangement that was faster ([`kept`](super::kept)). Arrangements are spelt out, not numbered, so a file
//! outlives changes of the tables: an entry whose kernel or arrangement no longer exists says nothing.

use super::check::is_refused;
use super::kept::{Place, damaged};
use crate::gpu::Gpu;
use crate::op::{Kernel, Op, Site};
use serde_json::{Map, Value};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The arrangement for each use of an op.
type Table = BTreeMap<String, String>;

type Tables = HashMap<Place, Arc<Table>>;

fn tables() -> MutexGuard<'static, Tables> {
    static TABLES: LazyLock<Mutex<Tables>> = LazyLock::new(Mutex::default);
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

fn place(gpu: &Gpu) -> Place {
    Place::of(gpu, "tuned")
}

/// The table of a device, read from its file the first time.
fn table(gpu: &Gpu) -> Arc<Table> {
    let place = place(gpu);
    tables().entry(place.clone()).or_insert_with(|| Arc::new(place.read(arrangements))).clone()
}

/// The entries of a file.
fn arrangements(entries: &Map<String, Value>) -> crate::Result<Table> {
    let entry = |(site, arrangement): (&String, &Value)| {
        Ok((site.clone(), arrangement.as_str().ok_or_else(|| damaged(site))?.to_string()))
    };
    entries.iter().map(entry).collect()
}

/// Takes arrangements into use for plans made from now on, and keeps them for later processes.
pub(super) fn adopt(gpu: &Gpu, found: impl IntoIterator<Item = (String, String)>) {
    let place = place(gpu);
    let mut new = (*table(gpu)).clone();
    // Another process may have added to it.
    new.extend(place.read(arrangements));
    new.extend(found);
    place.write(new.iter().map(|(site, arrangement)| (site.clone(), arrangement.as_str().into())).collect());
    tables().insert(place, Arc::new(new));
}

/// How many uses of ops a tuner has measured on this device, in this process or an earlier one; see
/// [`Model::tune`](crate::Model::tune).
pub fn tuned_shapes(gpu: &Gpu) -> usize {
    table(gpu).len()
}

/// What tells one arrangement of a kernel from another: code, constants and grid of each stage.
pub(super) fn arrangement(kernel: &Kernel) -> String {
    let mut text = String::new();
    for stage in &kernel.stages {
        let separator = if text.is_empty() { "" } else { ", then " };
        // Writing to a String cannot fail.
        let _ = write!(text, "{separator}{}", stage.name);
        for (name, value) in &stage.constants {
            let _ = write!(text, " {name}={value}");
        }
        let [x, y, z] = stage.grid;
        let _ = write!(text, " grid={x}x{y}x{z}");
    }
    text
}

/// An op and what comes in and out.
pub(super) fn shape(op: &dyn Op, site: &Site<'_>) -> String {
    let mut text = op.name().to_string();
    for input in site.inputs {
        let _ = write!(text, " {input}");
    }
    let _ = write!(text, " -> {}", site.output);
    text
}

/// What an arrangement is found for: an op, its parameters, its shape, and the kernel that the op itself
/// chooses for these.
pub(super) fn key(op: &dyn Op, site: &Site<'_>, default: &Kernel) -> String {
    let words: String = op.words().iter().map(|word| format!(" {word}")).collect();
    format!("{},{words} by {}", shape(op, site), arrangement(default))
}

/// The arrangement to use instead of the op's own choice, if one is known, exists and was not refused.
pub(super) fn instead(op: &dyn Op, site: &Site<'_>, default: &Kernel, gpu: &Arc<Gpu>) -> Option<Kernel> {
    let table = table(gpu);
    if table.is_empty() {
        return None;
    }
    let wanted = table.get(&key(op, site, default))?;
    if *wanted == arrangement(default) {
        return None;
    }
    let others = candidates(op, site).find(|kernel| arrangement(kernel) == *wanted);
    others.filter(|kernel| !is_refused(kernel, gpu))
}

/// All ways of computing an op that a tuner may choose from.
pub(super) fn candidates(op: &dyn Op, site: &Site<'_>) -> impl Iterator<Item = Kernel> {
    op.kernels(site).into_iter().chain(op.variants(site))
}

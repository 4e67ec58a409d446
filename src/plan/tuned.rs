//! What a tuner found out, kept from one process to the next.
//!
//! One JSON file per adapter, in the folder where compiled kernels are kept: for each use of an op (its
//! parameters, the specs around it and the kernel that its own table names) the arrangement that was faster.
//! Arrangements are spelt out, not numbered, so a file outlives changes of the tables: an entry whose kernel
//! or arrangement no longer exists says nothing. Files of another adapter, driver or version of this crate
//! count for nothing either.

use super::check::trusted;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, write_whole};
use crate::op::{Kernel, Op, Site};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

/// The arrangement for each use of an op.
type Table = BTreeMap<String, String>;

/// A file is for one adapter and driver; `None`: nothing is kept there.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Place {
    folder: Option<PathBuf>,
    adapter: String,
    driver: String,
}

impl Place {
    fn of(gpu: &Gpu) -> Self {
        let info = gpu.info();
        Self {
            folder: gpu.kept_in().map(Path::to_path_buf),
            adapter: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        }
    }

    /// The file, named like that of the pipelines.
    fn file(&self, gpu: &Gpu) -> Option<PathBuf> {
        let info = gpu.info();
        let name = format!("tuned_{}_{}_{}.json", info.backend, info.vendor, info.device);
        self.folder.as_ref().map(|folder| folder.join(name))
    }
}

type Tables = HashMap<Place, Arc<Table>>;

fn tables() -> MutexGuard<'static, Tables> {
    static TABLES: LazyLock<Mutex<Tables>> = LazyLock::new(Mutex::default);
    TABLES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The table of a device, read from its file the first time.
fn table(gpu: &Gpu) -> Arc<Table> {
    let place = Place::of(gpu);
    let read = |place: &Place| place.file(gpu).map_or_else(Table::new, |path| read_logged(&path, place));
    tables().entry(place.clone()).or_insert_with(|| Arc::new(read(&place))).clone()
}

fn read_logged(path: &Path, place: &Place) -> Table {
    read(path, place).unwrap_or_else(|e| {
        match e.is_format() {
            true => log::warn!("{}: ignored: {e}", path.display()),
            false => log::debug!("{}: no arrangements from here: {e}", path.display()),
        }
        Table::new()
    })
}

/// # Errors
/// `is_format`: damaged; `is_unsupported`: of another adapter, driver or version; `is_io`: not there.
fn read(path: &Path, place: &Place) -> Result<Table> {
    let damaged = |what: &str| Error::format(format!("damaged: {what}"));
    let bytes = std::fs::read(path).map_err(Error::io)?;
    let all: Value = serde_json::from_slice(&bytes).map_err(|e| damaged(&e.to_string()))?;
    for (field, own) in header(place) {
        match all[field].as_str() {
            Some(theirs) if theirs == own => {}
            Some(theirs) => return Err(Error::unsupported(format!("its {field} is {theirs}"))),
            None => return Err(damaged(field)),
        }
    }
    let entries = all["kernels"].as_object().ok_or_else(|| damaged("kernels"))?;
    let entry = |(site, arrangement): (&String, &Value)| {
        Ok((site.clone(), arrangement.as_str().ok_or_else(|| damaged(site))?.to_string()))
    };
    entries.iter().map(entry).collect()
}

fn header(place: &Place) -> [(&'static str, &str); 3] {
    [("adapter", &place.adapter), ("driver", &place.driver), ("version", env!("CARGO_PKG_VERSION"))]
}

/// Takes arrangements into use for plans made from now on, and keeps them for later processes; trouble with
/// the file is logged, not returned, since nothing depends on it.
pub(super) fn adopt(gpu: &Gpu, found: impl IntoIterator<Item = (String, String)>) {
    let place = Place::of(gpu);
    let path = place.file(gpu);
    let mut new = (*table(gpu)).clone();
    // Another process may have added to it.
    new.extend(path.iter().flat_map(|path| read_logged(path, &place)));
    new.extend(found);
    if let Some(path) = path {
        let mut all: Map<String, Value> =
            header(&place).map(|(field, own)| (field.to_string(), json!(own))).into_iter().collect();
        all.insert("kernels".into(), json!(new));
        if let Err(e) = write_whole(&path, format!("{:#}\n", Value::Object(all)).as_bytes()) {
            log::warn!("{}: arrangements are not kept: {e}", path.display());
        }
    }
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

/// The arrangement to use instead of the op's own choice, if one is known, exists and is trusted.
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
    others.filter(|kernel| trusted(op, kernel, gpu))
}

/// All ways of computing an op that a tuner may choose from.
pub(super) fn candidates(op: &dyn Op, site: &Site<'_>) -> impl Iterator<Item = Kernel> {
    op.kernels(site).into_iter().chain(op.variants(site))
}

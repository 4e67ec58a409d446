//! What was found out about an adapter, kept from one process to the next.
//!
//! A JSON file per adapter and subject, in the folder where compiled kernels are kept. It says for which adapter,
//! driver and version of this crate it holds; files of others count for nothing, and neither do damaged ones.

use crate::error::{Error, Result};
use crate::gpu::{Gpu, unkept, write_whole};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// Where something is kept: a file about one subject for one adapter and driver.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// `None`: nothing is kept.
    file: Option<PathBuf>,
    adapter: String,
    driver: String,
}

impl Place {
    pub(super) fn of(gpu: &Gpu, subject: &str) -> Self {
        let info = gpu.info();
        // Named like that of the pipelines.
        let name = format!("{subject}_{}_{}_{}.json", info.backend, info.vendor, info.device);
        Self {
            file: gpu.kept_in().map(|folder| folder.join(name)),
            adapter: info.name.clone(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_string(),
        }
    }

    fn header(&self) -> [(&'static str, &str); 3] {
        [("adapter", &self.adapter), ("driver", &self.driver), ("version", env!("CARGO_PKG_VERSION"))]
    }

    /// What `take` makes of the entries; trouble with the file is logged, and there are none then.
    pub(super) fn read<T: Default>(&self, take: impl FnOnce(&Map<String, Value>) -> Result<T>) -> T {
        let Some(path) = &self.file else { return T::default() };
        entries(path, &self.header()).and_then(|entries| take(&entries)).unwrap_or_else(|e| {
            match e.is_format() {
                true => log::warn!("{}: ignored: {e}", path.display()),
                false => log::debug!("{}: nothing from here: {e}", path.display()),
            }
            T::default()
        })
    }

    /// Replaces the entries; trouble is logged, not returned, since nothing depends on them.
    pub(super) fn write(&self, entries: Map<String, Value>) {
        let Some(path) = &self.file else { return };
        let header = self.header().map(|(field, own)| (field.to_string(), json!(own)));
        let mut all: Map<String, Value> = header.into_iter().collect();
        all.insert("kernels".into(), Value::Object(entries));
        if let Err(e) = write_whole(path, format!("{:#}\n", Value::Object(all)).as_bytes()) {
            unkept(path, &e);
        }
    }
}

/// # Errors
/// `is_format`: damaged; `is_unsupported`: of another adapter, driver or version; `is_io`: not there.
fn entries(path: &Path, header: &[(&str, &str)]) -> Result<Map<String, Value>> {
    let bytes = std::fs::read(path).map_err(Error::io)?;
    let mut all: Value = serde_json::from_slice(&bytes).map_err(|e| damaged(&e.to_string()))?;
    for (field, own) in header {
        match all[field].as_str() {
            Some(theirs) if theirs == *own => {}
            Some(theirs) => return Err(Error::unsupported(format!("its {field} is {theirs}"))),
            None => return Err(damaged(field)),
        }
    }
    match all["kernels"].take() {
        Value::Object(entries) => Ok(entries),
        _ => Err(damaged("kernels")),
    }
}

/// The error about a file that nobody wrote so.
pub(super) fn damaged(what: &str) -> Error {
    Error::format(format!("damaged: {what}"))
}

//! Compiled kernels, kept from one process to the next.
//!
//! Compiling is what a first start spends most of its time on: up to a second for each matrix kernel. On
//! Vulkan the driver's results are put into a file of the user's cache folder, one per device model and
//! way of opening, and given back to it at the next start. The file begins with a checksum over this
//! crate's version and everything that follows, so a damaged one, or one of another version, counts for
//! nothing and is replaced; it is written beside its place and moved there, so it is never half written.
//! wgpu and the driver check what concerns them: device, driver version, format.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use super::device::lock;
use crate::error::{Error, Result};
use crate::gpu::{Gpu, Spent};

/// A larger file is not read: it would hold kernels of many models and of many driver versions.
const MOST: u64 = 256 << 20;
/// How many times as long as a save took the next one waits.
const SHARE: u32 = 20;
const MAGIC: &[u8; 8] = b"unimlxpc";

/// Pipelines made so far, and the file they are kept in.
#[derive(Default)]
pub(super) struct Kept {
    compiled: AtomicU64,
    loaded: AtomicU64,
    pub(super) spent: Spent,
    folder: OnceLock<PathBuf>,
    file: OnceLock<File>,
}

struct File {
    path: PathBuf,
    raw: wgpu::PipelineCache,
    content: Mutex<Content>,
}

struct Content {
    /// Keys of the pipelines in the driver's data.
    keys: BTreeSet<u64>,
    /// Whether some are not in the file yet.
    changed: bool,
    /// Not before this, unless the device is closed.
    next_save: Instant,
}

impl Kept {
    /// The driver's store of pipelines, if there is one.
    pub(super) fn raw(&self) -> Option<&wgpu::PipelineCache> {
        self.file.get().map(|file| &file.raw)
    }

    /// Counts a pipeline that was just made; equal ones have equal keys in every process.
    pub(super) fn made(&self, key: u64) {
        let new = self.file.get().is_none_or(|file| {
            let content = &mut *lock(&file.content);
            let new = content.keys.insert(key);
            content.changed |= new;
            new
        });
        if new { &self.compiled } else { &self.loaded }.fetch_add(1, Relaxed);
    }
}

impl Gpu {
    /// Pipelines compiled from their source so far.
    pub fn pipelines_compiled(&self) -> u64 {
        self.kept.compiled.load(Relaxed)
    }

    /// Pipelines that an earlier process had compiled, and the driver took from the file in
    /// [`Options::pipeline_cache`](super::Options::pipeline_cache).
    pub fn pipelines_loaded(&self) -> u64 {
        self.kept.loaded.load(Relaxed)
    }

    /// Time spent on making pipelines ready.
    pub(crate) fn pipeline_time(&self) -> Duration {
        self.kept.spent.so_far()
    }

    /// The way in which the device was opened: shaders are translated differently.
    pub(crate) fn way(&self) -> &'static str {
        match (self.checked, self.caps().fast_device) {
            (true, _) => "checked",
            (false, true) => "fast",
            (false, false) => "ordinary",
        }
    }

    /// The folder for what the next process need not find out again; none if nothing is kept.
    pub(crate) fn kept_in(&self) -> Option<&Path> {
        self.kept.folder.get().map(PathBuf::as_path)
    }

    /// Begins to keep pipelines in `folder`, where the backend can.
    pub(super) fn keep_pipelines(&self, folder: &Path) {
        // Only the first call counts, and there is one.
        let _ = self.kept.folder.set(folder.to_path_buf());
        if !self.device.features().contains(wgpu::Features::PIPELINE_CACHE) {
            return;
        }
        let Some(device) = wgpu::util::pipeline_cache_key(self.info()) else { return };
        let path = folder.join(format!("{device}_{}", self.way()));
        let (keys, data) = read(&path).unwrap_or_else(|why| {
            log::debug!("{}: no pipelines from here: {why}", path.display());
            (BTreeSet::new(), Vec::new())
        });
        let raw = self.guarded("opening the pipeline cache", || {
            let descriptor = wgpu::PipelineCacheDescriptor {
                label: Some("unimlx"),
                data: (!data.is_empty()).then_some(&data),
                fallback: true,
            };
            // SAFETY: the data is what `get_data` returned to an earlier process, as its checksum says, in
            // the user's own folder; wgpu compares device, driver version and length.
            unsafe { self.device.create_pipeline_cache(&descriptor) }
        });
        match raw {
            Ok(raw) => {
                let content = Mutex::new(Content { keys, changed: false, next_save: Instant::now() });
                let _ = self.kept.file.set(File { path, raw, content });
            }
            Err(e) => log::warn!("{e}"),
        }
    }

    /// Writes the pipelines to their file if there are new ones. This happens by itself from time to time
    /// and when the device is closed; trouble is logged, not returned, since nothing depends on it.
    pub fn save_pipelines(&self) {
        self.save_pipelines_at(None);
    }

    /// As [`Gpu::save_pipelines`], unless it was just done.
    pub(super) fn save_pipelines_soon(&self) {
        self.save_pipelines_at(Some(Instant::now()));
    }

    fn save_pipelines_at(&self, now: Option<Instant>) {
        let Some(file) = self.kept.file.get() else { return };
        let keys = {
            let content = &mut *lock(&file.content);
            if !content.changed || now.is_some_and(|now| now < content.next_save) || self.is_lost() {
                return;
            }
            content.changed = false;
            content.keys.clone()
        };
        let start = Instant::now();
        let outcome = self
            .guarded("reading the pipeline cache", || file.raw.get_data())
            .and_then(|data| data.map_or(Ok(()), |data| write(&file.path, &keys, &data)));
        if let Err(e) = outcome {
            unkept(&file.path, &e);
        }
        let cost = start.elapsed().max(Duration::from_micros(100));
        lock(&file.content).next_save = Instant::now() + cost * SHARE;
    }
}

/// A checksum of this version and `bytes`.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    env!("CARGO_PKG_VERSION").hash(&mut hasher);
    bytes.hash(&mut hasher);
    hasher.finish()
}

/// Keys and the driver's data: `MAGIC`, checksum, number of keys, keys, data.
fn read(path: &Path) -> Result<(BTreeSet<u64>, Vec<u8>)> {
    let size = std::fs::metadata(path).map_err(Error::io)?.len();
    if size > MOST {
        return Err(Error::format(format!("{size} bytes")));
    }
    let bytes = std::fs::read(path).map_err(Error::io)?;
    let damaged = || Error::format("damaged, or of another version");
    let rest = bytes.strip_prefix(MAGIC).ok_or_else(damaged)?;
    let (sum, rest) = word(rest).ok_or_else(damaged)?;
    if sum != checksum(rest) {
        return Err(damaged());
    }
    let (count, mut rest) = word(rest).ok_or_else(damaged)?;
    let mut keys = BTreeSet::new();
    for _ in 0..count {
        let (key, after) = word(rest).ok_or_else(damaged)?;
        keys.insert(key);
        rest = after;
    }
    Ok((keys, rest.to_vec()))
}

fn word(bytes: &[u8]) -> Option<(u64, &[u8])> {
    bytes.split_first_chunk().map(|(first, rest)| (u64::from_le_bytes(*first), rest))
}

fn write(path: &Path, keys: &BTreeSet<u64>, data: &[u8]) -> Result<()> {
    let mut rest = Vec::with_capacity(8 + 8 * keys.len() + data.len());
    rest.extend_from_slice(&(keys.len() as u64).to_le_bytes());
    keys.iter().for_each(|key| rest.extend_from_slice(&key.to_le_bytes()));
    rest.extend_from_slice(data);
    let head = [&MAGIC[..], &checksum(&rest).to_le_bytes()].concat();
    write_whole(path, &[head, rest].concat())
}

/// Writes a file and the folders it is in, so that nobody ever sees half of it.
pub(crate) fn write_whole(path: &Path, bytes: &[u8]) -> Result<()> {
    static TURN: AtomicU64 = AtomicU64::new(0);
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(Error::io)?;
    }
    // Several processes and devices may save at once; each has its own file until it moves it.
    let (process, turn) = (std::process::id(), TURN.fetch_add(1, Relaxed));
    let part = path.with_extension(format!("{process}.{turn}.part"));
    let outcome = std::fs::write(&part, bytes).and_then(|()| std::fs::rename(&part, path));
    outcome.map_err(|e| {
        // What is left of it is of no use.
        let _ = std::fs::remove_file(&part);
        Error::io(e)
    })
}

/// Says, once in a process, that a file of the cache folder cannot be written.
pub(crate) fn unkept(path: &Path, e: &Error) {
    static SAID: std::sync::Once = std::sync::Once::new();
    log::debug!("{}: not kept: {e}", path.display());
    SAID.call_once(|| {
        log::warn!("{}: {e}; what is compiled and tried now will be again next time", path.display());
    });
}

/// The user's folder for what can be made again: `UNIMLX_CACHE` (none if that is empty), or `unimlx` in the
/// system's place for it.
pub(super) fn default_folder() -> Option<PathBuf> {
    let var = |name| std::env::var_os(name).map(PathBuf::from);
    match var("UNIMLX_CACHE") {
        Some(folder) => Some(folder).filter(|folder| !folder.as_os_str().is_empty()),
        None => {
            let place = if cfg!(windows) {
                var("LOCALAPPDATA")
            } else if cfg!(target_vendor = "apple") {
                var("HOME").map(|home| home.join("Library/Caches"))
            } else {
                let xdg = var("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
                xdg.or_else(|| var("HOME").map(|home| home.join(".cache")))
            };
            place.filter(|folder| folder.is_absolute()).map(|folder| folder.join("unimlx"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_unless_damaged() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deeper/file");
        let (keys, data) = (BTreeSet::from([3, 1 << 60]), vec![7; 100]);
        assert!(read(&path).unwrap_err().is_io());
        for _ in 0..2 {
            write(&path, &keys, &data).unwrap();
        }
        assert_eq!(read(&path).unwrap(), (keys, data));
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 1, "nothing else is left");
        let whole = std::fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            std::fs::write(&path, &bytes).unwrap();
            assert!(read(&path).unwrap_err().is_format(), "byte {at}");
            std::fs::write(&path, &whole[..at]).unwrap();
            assert!(read(&path).unwrap_err().is_format(), "cut at {at}");
        }
    }
}

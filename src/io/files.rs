//! The files of a model, in a folder or in memory.
//!
//! A model may be shipped inside a binary (`include_bytes!`), so everything above reads through this
//! one small door: a name in, bytes out, and a description of where they came from for errors.

use super::safetensors::Bytes;
use crate::error::{Error, Result};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

/// JSON and templates larger than this are not what they claim to be.
const MAX_TEXT_BYTES: u64 = 1 << 30;

/// Where the files of one model are.
#[derive(Clone, Debug)]
pub(crate) enum Files {
    Folder(PathBuf),
    Memory(BTreeMap<String, Bytes>),
}

impl Files {
    /// A folder that exists.
    pub(crate) fn folder(path: &Path) -> Result<Self> {
        match std::fs::metadata(path) {
            Ok(m) if m.is_dir() => Ok(Self::Folder(path.to_path_buf())),
            Ok(_) => Err(Error::io(format!(
                "{} is a file: expected the folder that holds config.json and *.safetensors",
                path.display()
            ))),
            Err(e) => Err(Error::io(format!("model folder {}: {e}", path.display()))),
        }
    }

    /// Files that are already in memory, by name.
    pub(crate) fn memory(files: impl IntoIterator<Item = (impl Into<String>, Cow<'static, [u8]>)>) -> Self {
        Self::Memory(files.into_iter().map(|(name, bytes)| (name.into(), Bytes::from_cow(bytes))).collect())
    }

    /// The name in errors of the file `name`.
    pub(crate) fn describe(&self, name: &str) -> String {
        match self {
            Self::Folder(folder) => folder.join(name).display().to_string(),
            Self::Memory(_) => format!("{name} (in memory)"),
        }
    }

    /// Whether the file exists.
    pub(crate) fn has(&self, name: &str) -> bool {
        match self {
            Self::Folder(folder) => folder.join(name).is_file(),
            Self::Memory(files) => files.contains_key(name),
        }
    }

    /// Names of the files directly in the folder, sorted.
    pub(crate) fn names(&self) -> Result<Vec<String>> {
        match self {
            Self::Folder(folder) => {
                let fail = |e: std::io::Error| Error::io(format!("{}: {e}", folder.display()));
                let mut names = Vec::new();
                for entry in std::fs::read_dir(folder).map_err(fail)? {
                    if let Ok(name) = entry.map_err(fail)?.file_name().into_string() {
                        names.push(name);
                    }
                }
                names.sort();
                Ok(names)
            }
            Self::Memory(files) => Ok(files.keys().cloned().collect()),
        }
    }

    /// A whole small file, or `None` if there is no such file.
    pub(crate) fn read(&self, name: &str) -> Result<Option<Cow<'_, [u8]>>> {
        let folder = match self {
            Self::Folder(folder) => folder,
            Self::Memory(files) => return Ok(files.get(name).map(|b| Cow::Borrowed(&**b))),
        };
        let path = folder.join(name);
        let fail = |e: std::io::Error| Error::io(format!("{}: {e}", path.display()));
        let meta = match std::fs::metadata(&path) {
            Ok(meta) => meta,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(fail(e)),
        };
        if !meta.is_file() || meta.len() > MAX_TEXT_BYTES {
            return Err(Error::format(format!(
                "{}: expected a file of at most {MAX_TEXT_BYTES} bytes",
                path.display()
            )));
        }
        std::fs::read(&path).map(|bytes| Some(bytes.into())).map_err(fail)
    }

    /// The bytes of a weight file: mapped, never read as a whole.
    pub(crate) fn map(&self, name: &str) -> Result<Bytes> {
        match self {
            Self::Folder(folder) => Bytes::map(&folder.join(name)),
            Self::Memory(files) => files
                .get(name)
                .cloned()
                .ok_or_else(|| Error::io(format!("{}: no such file", self.describe(name)))),
        }
    }
}

/// Refuses what a clone has in the place of a large file where Git LFS is not installed.
pub(crate) fn check_is_content(bytes: &[u8]) -> Result<()> {
    if bytes.starts_with(b"version https://git-lfs") {
        return Err(Error::format("a Git LFS pointer in place of the file: `git lfs pull` fetches it"));
    }
    Ok(())
}

/// Whether a name from an index stays inside the model folder: one plain component, no `..`, no root.
pub(crate) fn is_plain_name(name: &str) -> bool {
    let mut parts = Path::new(name).components();
    matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) && !name.contains(['\\', ':'])
}

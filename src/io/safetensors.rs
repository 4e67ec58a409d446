//! Safetensors files, mapped.
//!
//! A file is eight bytes of header length, a JSON header and one run of tensor data. Opening maps the
//! file and checks the header completely, so that afterwards a [`TensorView`] is a slice and cannot
//! fail: the length is sane, each tensor's bytes are as long as its shape and dtype say, and the
//! tensors cover the data without overlap or hole. The header is parsed here rather than by the
//! `safetensors` crate because that one cannot say *which* tensor is wrong and lets duplicate names
//! pass; a test holds the two to the same verdict.
//!
//! Tensor data is only byte-aligned (a header may have any length), so nobody may cast it blindly.

use super::files::check_is_content;
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::layout::checked_size;
use memmap2::Mmap;
use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, Visitor};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, Range};
use std::path::Path;
use std::sync::Arc;

/// The format's own limit.
const MAX_HEADER_BYTES: u64 = 100_000_000;

/// Bytes that stay alive as long as anyone holds them: a piece of a mapped file, or of memory. Cloning
/// copies no data.
#[derive(Clone)]
pub(crate) struct Bytes {
    owner: Owner,
    range: Range<usize>,
}

#[derive(Clone)]
enum Owner {
    Mapped(Arc<Mmap>),
    Shared(Arc<Vec<u8>>),
    Static(&'static [u8]),
}

impl Bytes {
    /// Maps a whole file, read-only.
    pub(crate) fn map(path: &Path) -> Result<Self> {
        let fail = |e: std::io::Error| Error::io(format!("{}: {e}", path.display()));
        let file = std::fs::File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        if !meta.is_file() {
            return Err(Error::io(format!("{}: not a regular file", path.display())));
        }
        if meta.len() == 0 {
            return Ok(Self { owner: Owner::Static(&[]), range: 0..0 }); // an empty map is an error on some systems
        }
        // SAFETY: the mapping is read-only and private to `Bytes`, which hands out shared slices only.
        // Another process that truncates the file while it is mapped can still fault this one; every
        // program that maps weights shares that risk, and reading gigabytes instead is no alternative.
        let map = unsafe { Mmap::map(&file) }.map_err(fail)?;
        Ok(Self { range: 0..map.len(), owner: Owner::Mapped(Arc::new(map)) })
    }

    pub(crate) fn from_cow(bytes: Cow<'static, [u8]>) -> Self {
        let range = 0..bytes.len();
        let owner = match bytes {
            Cow::Borrowed(b) => Owner::Static(b),
            Cow::Owned(b) => Owner::Shared(Arc::new(b)),
        };
        Self { owner, range }
    }

    /// A part of these bytes.
    #[track_caller]
    pub(crate) fn slice(&self, range: Range<usize>) -> Self {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {} bytes", self.len());
        let start = self.range.start;
        Self { owner: self.owner.clone(), range: start + range.start..start + range.end }
    }

    /// Tells the system that these bytes were copied elsewhere: their pages leave resident memory and are
    /// read from the file again if anyone looks. Does nothing for bytes that are not mapped.
    pub(crate) fn release(&self) {
        #[cfg(unix)]
        if let Owner::Mapped(map) = &self.owner
            && !self.range.is_empty()
        {
            // SAFETY: dropping pages of a read-only, file-backed shared mapping loses nothing; the next
            // access faults them in from the file with the same content.
            let done = unsafe {
                map.unchecked_advise_range(
                    memmap2::UncheckedAdvice::DontNeed,
                    self.range.start,
                    self.range.len(),
                )
            };
            if let Err(e) = done {
                log::debug!("could not release mapped pages: {e}");
            }
        }
    }
}

impl Deref for Bytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        let whole: &[u8] = match &self.owner {
            Owner::Mapped(map) => map,
            Owner::Shared(bytes) => bytes,
            Owner::Static(bytes) => bytes,
        };
        &whole[self.range.clone()]
    }
}

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.len())
    }
}

/// One tensor of a checkpoint: name, type, shape and its bytes in the file (little-endian, row-major).
/// Holding it keeps the file mapped; cloning copies no data.
#[derive(Clone, Debug)]
pub struct TensorView {
    pub(crate) name: String,
    pub(crate) dtype: Dtype,
    pub(crate) shape: Vec<usize>,
    pub(crate) bytes: Bytes,
}

impl TensorView {
    /// The tensor's name in the checkpoint.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Type of the elements as stored.
    pub fn dtype(&self) -> Dtype {
        self.dtype
    }

    /// Sizes of the axes, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The elements, little-endian and row-major; not necessarily aligned to the element size.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The elements widened to f32; `None` unless they are floating point.
    pub fn to_f32(&self) -> Option<Vec<f32>> {
        let words = self.bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let halves = self.bytes.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]]));
        match self.dtype {
            Dtype::F32 => Some(words.collect()),
            Dtype::F16 => Some(halves.map(|x| half::f16::from_bits(x).to_f32()).collect()),
            Dtype::BF16 => Some(halves.map(|x| half::bf16::from_bits(x).to_f32()).collect()),
            _ => None,
        }
    }
}

/// An opened file whose header has passed every check.
#[derive(Clone, Debug)]
pub(crate) struct SafetensorsFile {
    file: String,
    tensors: BTreeMap<String, Entry>,
    data: Bytes,
}

#[derive(Clone, Debug)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    range: Range<usize>,
}

impl SafetensorsFile {
    /// Checks a whole file; `file` is its name in errors.
    pub(crate) fn parse(file: String, bytes: Bytes) -> Result<Self> {
        let (tensors, start) = parse_header(&bytes).with_context(|| &file)?;
        let data = bytes.slice(start..bytes.len());
        Ok(Self { file, tensors, data })
    }

    /// The file's name in errors.
    pub(crate) fn file(&self) -> &str {
        &self.file
    }

    /// Renames every tensor.
    pub(crate) fn rename(&mut self, name: impl Fn(&str) -> String) {
        self.tensors =
            std::mem::take(&mut self.tensors).into_iter().map(|(old, e)| (name(&old), e)).collect();
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// All names, sorted.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// A tensor's dtype as the file spells it, its shape and its bytes, whatever they are.
    pub(crate) fn stored(&self, name: &str) -> Option<(&str, &[usize], &[u8])> {
        self.tensors.get(name).map(|e| (e.dtype.as_str(), &e.shape[..], &self.data[e.range.clone()]))
    }

    /// Bytes of one tensor's data; 0 if there is none.
    pub(crate) fn byte_len(&self, name: &str) -> usize {
        self.tensors.get(name).map_or(0, |e| e.range.len())
    }

    /// A tensor, unless it is absent or of a type this crate does not compute with.
    pub(crate) fn tensor(&self, name: &str) -> Result<TensorView> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| Error::format(format!("{}: no tensor `{name}`", self.file)))?;
        let dtype = dtype_of(&entry.dtype).ok_or_else(|| {
            Error::unsupported(format!(
                "{}: tensor `{name}` has dtype {}; f32, f16, bf16 and MLX's packed u32 can be computed with",
                self.file, entry.dtype
            ))
        })?;
        Ok(TensorView {
            name: name.to_owned(),
            dtype,
            shape: entry.shape.clone(),
            bytes: self.data.slice(entry.range.clone()),
        })
    }
}

/// The dtypes that tensors may be used in.
fn dtype_of(name: &str) -> Option<Dtype> {
    Some(match name {
        "F32" => Dtype::F32,
        "F16" => Dtype::F16,
        "BF16" => Dtype::BF16,
        "I32" => Dtype::I32,
        "U32" => Dtype::U32,
        "U8" => Dtype::U8,
        _ => return None,
    })
}

/// Bits of one element of every dtype the format knows.
fn bits_of(name: &str) -> Option<usize> {
    Some(match name {
        "F4" => 4,
        "F6_E2M3" | "F6_E3M2" => 6,
        "BOOL" | "U8" | "I8" | "F8_E5M2" | "F8_E4M3" | "F8_E8M0" | "F8_E4M3FNUZ" | "F8_E5M2FNUZ" => 8,
        "I16" | "U16" | "F16" | "BF16" => 16,
        "I32" | "U32" | "F32" => 32,
        "I64" | "U64" | "F64" | "C64" => 64,
        _ => return None,
    })
}

/// The checked entries and where the data begins.
fn parse_header(bytes: &[u8]) -> Result<(BTreeMap<String, Entry>, usize)> {
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else {
        return Err(Error::format(format!(
            "truncated: {} bytes, a safetensors file has at least 8",
            bytes.len()
        )));
    };
    check_is_content(bytes)?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER_BYTES {
        return Err(Error::format(format!(
            "header claims {length} bytes, more than the format's limit of {MAX_HEADER_BYTES}: not a safetensors file?"
        )));
    }
    let length = length as usize; // at most 100 MB
    let Some((header, data)) = rest.split_at_checked(length) else {
        return Err(Error::format(format!(
            "truncated: header claims {length} bytes, the file has {} after the length",
            rest.len()
        )));
    };
    let header: Header = serde_json::from_slice(header)
        .map_err(|e| Error::format(format!("header is not a JSON object of tensors: {e}")))?;
    let mut tensors = BTreeMap::new();
    for (name, value) in header.0 {
        if name == "__metadata__" {
            check_metadata(&value)?;
            continue;
        }
        let entry = check_entry(value, data.len()).with_context(|| format!("tensor `{name}`"))?;
        if tensors.insert(name.clone(), entry).is_some() {
            return Err(Error::format(format!("tensor `{name}` is listed twice")));
        }
    }
    check_cover(&tensors, data.len())?;
    Ok((tensors, 8 + length))
}

/// One tensor's entry as the header spells it.
#[derive(Deserialize)]
struct RawEntry {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

/// Keys and values in file order, duplicates included.
struct Header(Vec<(String, Value)>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map of tensors")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut entries = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    entries.push(entry);
                }
                Ok(Header(entries))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

fn check_metadata(value: &Value) -> Result<()> {
    let is_text = |map: &serde_json::Map<String, Value>| map.values().all(Value::is_string);
    match value {
        Value::Null => Ok(()),
        Value::Object(map) if is_text(map) => Ok(()),
        _ => Err(Error::format("`__metadata__` is not a map of strings")),
    }
}

/// Shape, dtype and offsets of one tensor agree with each other and lie inside the data.
fn check_entry(value: Value, data_len: usize) -> Result<Entry> {
    let raw: RawEntry =
        serde_json::from_value(value).map_err(|e| Error::format(format!("bad entry: {e}")))?;
    let overflow = || Error::format(format!("shape {:?} is larger than memory can be", raw.shape));
    let shape = raw.shape.iter().map(|&n| usize::try_from(n).ok()).collect::<Option<Vec<_>>>();
    let shape = shape.ok_or_else(overflow)?;
    let count = checked_size(&shape).ok_or_else(overflow)?;
    let (start, end) = raw.data_offsets;
    if start > end {
        return Err(Error::format(format!("data_offsets [{start}, {end}] run backwards")));
    }
    if end > data_len as u64 {
        return Err(Error::format(format!(
            "data_offsets [{start}, {end}] end outside the file, which has {data_len} bytes of data: truncated?"
        )));
    }
    let range = start as usize..end as usize; // both at most `data_len`
    if let Some(bits) = bits_of(&raw.dtype) {
        let total_bits = count.checked_mul(bits).ok_or_else(overflow)?;
        if total_bits % 8 != 0 || total_bits / 8 != range.len() {
            return Err(Error::format(format!(
                "data_offsets [{start}, {end}] hold {} bytes, but shape {shape:?} of {} needs {}",
                range.len(),
                raw.dtype,
                total_bits.div_ceil(8)
            )));
        }
    }
    Ok(Entry { dtype: raw.dtype, shape, range })
}

/// The tensors cover the data exactly: no overlap, no hole, nothing left over.
fn check_cover(tensors: &BTreeMap<String, Entry>, data_len: usize) -> Result<()> {
    let mut order: Vec<_> = tensors.iter().collect();
    order.sort_by_key(|(_, e)| (e.range.start, e.range.end));
    let mut end = 0;
    let mut before = "the start of the data";
    for (name, entry) in order {
        let start = entry.range.start;
        if start != end {
            let what = if start < end { "overlaps" } else { "leaves a hole after" };
            return Err(Error::format(format!(
                "tensor `{name}` starts at byte {start} and {what} {before}, which ends at {end}"
            )));
        }
        (end, before) = (entry.range.end, name);
    }
    if end != data_len {
        return Err(Error::format(format!(
            "{} bytes follow the last tensor ({before}, which ends at byte {end})",
            data_len - end
        )));
    }
    Ok(())
}

#[cfg(test)]
#[path = "safetensors_tests.rs"]
mod tests;

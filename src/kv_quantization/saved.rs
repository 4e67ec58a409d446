//! What a cache holds of a prompt, as a safetensors file: made on one device, restored on any.
//!
//! Tensors: `tokens` `[n]`; of each layer `layers.<i>.keys` and `.values` `[n, width]`, row after row, coded as in the
//! cache, and `.basis` where there is one, for codes mean nothing without it; rows that a layer with a window has forgotten are
//! zeros. The metadata says of which model, which kind and which version of this layout.

use super::cache::KvCache;
use crate::cpu::BASIS_ROWS;
use crate::dtype::Dtype;
use crate::error::{Context, Error, Result};
use crate::io::safetensors::{Bytes, SafetensorsFile};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype as Stored, TensorView};
use std::collections::HashMap;
use std::path::Path;

const FORMAT: &str = "unimlx-prompt";
const VERSION: &str = "2";

impl KvCache {
    /// Writes what the first slot holds of `tokens`, under the fingerprint of their model.
    ///
    /// # Errors
    /// A file that cannot be written; a device that does not answer.
    pub(crate) fn save(&self, path: &Path, model: &str, tokens: &[u32]) -> Result<()> {
        let n = tokens.len().min(self.slot_len(0));
        let mut tensors = vec![("tokens".to_string(), Stored::U32, vec![n], bytes_of(&tokens[..n]))];
        for layer in 0..self.layer_count {
            let arrays = self.layers.get(layer).into_iter().flatten();
            for (part, (name, array)) in ["keys", "values"].into_iter().zip(arrays).enumerate() {
                let width = array.dims()[1];
                tensors.push((
                    format!("layers.{layer}.{name}"),
                    stored(array.dtype()),
                    vec![n, width],
                    self.stored(layer, part, n)?,
                ));
            }
            if let Some(basis) = self.basis(layer) {
                let mut bytes = vec![0; basis.nbytes()];
                if let Some(buffer) = basis.buffer() {
                    buffer.read(&mut bytes)?;
                }
                tensors.push((format!("layers.{layer}.basis"), Stored::F32, basis.dims().to_vec(), bytes));
            }
        }
        let kind = self.said_kind();
        let said = [("format", FORMAT), ("version", VERSION), ("model", model), ("kind", &kind)];
        let said: HashMap<String, String> =
            said.into_iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let fail = |e: safetensors::SafeTensorError| Error::io(format!("{}: {e}", path.display()));
        let views = tensors.iter().map(|(name, dtype, shape, bytes)| {
            Ok((name.as_str(), TensorView::new(*dtype, shape.clone(), bytes).map_err(fail)?))
        });
        let views = views.collect::<Result<Vec<_>>>()?;
        let fail = |e: &dyn std::fmt::Display| Error::io(format!("{}: {e}", path.display()));
        if path.exists() && !path.is_file() {
            return Err(fail(&"not a regular file"));
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
            return Err(fail(&format_args!("there is no folder {}", folder.display())));
        }
        // A file that is there is replaced whole or not at all.
        safetensors::serialize_to_file(views, Some(said), path).map_err(|e| fail(&e))
    }

    /// Fills the first slot of an empty cache from a file; the tokens that it now holds. `most` is the context length.
    ///
    /// # Errors
    /// A file that is malformed, or of another model, kind or version; not enough memory.
    pub(crate) fn load(&mut self, path: &Path, model: &str, most: usize) -> Result<Vec<u32>> {
        let name = path.display().to_string();
        let bytes = Bytes::map(path)?;
        let said = SafeTensors::read_metadata(&bytes)
            .map_err(|e| Error::format(format!("{name}: not a saved prompt: {e}")))?
            .1;
        let said = said.metadata().clone().unwrap_or_default();
        let kind = self.said_kind();
        for (field, wanted) in [("format", FORMAT), ("version", VERSION), ("kind", &kind), ("model", model)] {
            let found = said.get(field).map_or("", String::as_str);
            if found != wanted {
                let other = if field == "model" { "another: " } else { "" };
                return Err(Error::input(format!("{name}: its {field} is {other}`{found}`, not `{wanted}`")));
            }
        }
        let file = SafetensorsFile::parse(name, bytes)?;
        let tensor = |name: &str, dtype: Dtype, shape: &[usize]| {
            let tensor = file.tensor(name)?;
            if tensor.dtype() != dtype || tensor.shape() != shape {
                return Err(Error::format(format!(
                    "{}: `{name}` is {}{:?}, not {dtype}{shape:?}",
                    file.file(),
                    tensor.dtype(),
                    tensor.shape()
                )));
            }
            Ok(tensor)
        };
        let tokens = file.tensor("tokens")?;
        let tokens = tensor("tokens", Dtype::U32, &[tokens.shape().iter().product()])?;
        let tokens: Vec<u32> = bytemuck::pod_collect_to_vec(tokens.bytes());
        if tokens.len() > most {
            return Err(Error::input(format!(
                "{}: {} tokens are more than the model's context of {most}",
                file.file(),
                tokens.len()
            )));
        }
        if self.kinds().iter().any(|kind| kind.has_basis()) {
            let width = self.kv_heads * self.head_dim;
            let basis = |layer: usize| -> Result<Vec<f32>> {
                if !self.kinds()[layer].has_basis() {
                    return Ok(vec![0.0; BASIS_ROWS * width]); // nobody looks
                }
                let basis = tensor(&format!("layers.{layer}.basis"), Dtype::F32, &[BASIS_ROWS, width])?;
                Ok(bytemuck::pod_collect_to_vec(basis.bytes()))
            };
            self.set_bases(&(0..self.layer_count).map(basis).collect::<Result<Vec<_>>>()?)?;
        }
        self.truncate(0, 0);
        self.widen(tokens.len(), most)?;
        self.groups.iter_mut().for_each(|group| group.skip(0, tokens.len()));
        self.advance(0, tokens.len());
        let filled = self.reserve(0, tokens.len(), most).and_then(|()| {
            for (layer, arrays) in self.layers.iter().enumerate() {
                for (i, (part, array)) in ["keys", "values"].into_iter().zip(arrays).enumerate() {
                    let shape = [tokens.len(), array.dims()[1]];
                    let rows = tensor(&format!("layers.{layer}.{part}"), array.dtype(), &shape)?;
                    self.store(layer, i, rows.bytes()).with_context(|| format!("layers.{layer}.{part}"))?;
                }
            }
            Ok(())
        });
        if let Err(e) = filled {
            self.truncate(0, 0);
            return Err(e);
        }
        Ok(tokens)
    }
}

impl KvCache {
    /// The kind as a file says it: one for all layers, or one for each.
    fn said_kind(&self) -> String {
        let names: Vec<String> = self.kinds().iter().map(|kind| kind.name()).collect();
        if names.iter().all(|name| *name == names[0]) { names[0].clone() } else { names.join(",") }
    }
}

/// What the elements of caches are called in a file.
fn stored(dtype: Dtype) -> Stored {
    match dtype {
        Dtype::F16 => Stored::F16,
        Dtype::F32 => Stored::F32,
        _ => Stored::U32,
    }
}

fn bytes_of(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

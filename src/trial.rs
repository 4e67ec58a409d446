//! One case, every purpose: an op on given inputs, with the value its definition gives.
//!
//! Tests run every case on every kernel; the planner runs the smallest before it trusts a kernel on an
//! adapter for the first time. Outputs lie between guard bytes that must not change, and one function says
//! how far a result may be from the definition.

use crate::array::{Device, MLXArray};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gpu::{Bind, Buffer, Gpu, Recording, Step};
use crate::op::{Arg, Case, CpuKernel, Fill, HostMut, HostRef, Kernel, Spec};
use crate::reference::{self, Values};
use std::sync::Arc;

/// A case with its inputs and its expected output, as packed elements.
#[derive(Debug)]
pub struct Trial {
    /// The op and how its inputs were filled.
    pub case: Case,
    /// What comes out.
    pub output: Spec,
    inputs: Vec<Vec<u8>>,
    expected: Vec<u8>,
    /// Inputs that the op changes, with what they hold afterwards.
    updates: Vec<(usize, Vec<u8>)>,
}

const GUARD: usize = 256;
const SENTINEL: u8 = 0x5a;

fn padded(bytes: usize) -> usize {
    bytes.next_multiple_of(4).max(4)
}

impl Trial {
    /// Fills the inputs from a seed and interprets the definition.
    ///
    /// # Errors
    /// An input that does not fill its shape.
    pub fn new(case: Case, seed: u64) -> Result<Self> {
        let mut random = Random(seed);
        let inputs: Vec<Vec<u8>> = case.inputs.iter().map(|f| fill(f, &mut random)).collect();
        let arrays = arrays(&case, &inputs)?;
        let y = applied(&case, &arrays);
        let expected = value(&y)?;
        let updates = case.op.updates(&arrays);
        let updates = updates.iter().map(|(i, x)| Ok((*i, value(x)?))).collect::<Result<_>>()?;
        Ok(Self { output: y.spec().clone(), case, inputs, expected, updates })
    }

    /// Runs a GPU kernel and compares.
    ///
    /// # Errors
    /// A kernel that the driver refuses, that writes outside its output, or whose result is too far off.
    pub fn gpu(&self, gpu: &Arc<Gpu>, kernel: &Kernel) -> Result<()> {
        let upload = |bytes: &[u8]| -> Result<Buffer> {
            let mut data = bytes.to_vec();
            data.resize(padded(bytes.len()), 0);
            let buffer = gpu.alloc(data.len() as u64)?;
            gpu.write(&buffer, 0, &data)?;
            Ok(buffer)
        };
        let mut buffers = self.inputs.iter().map(|b| upload(b)).collect::<Result<Vec<_>>>()?;
        let scratch = buffers.len();
        for &bytes in &kernel.scratch {
            buffers.push(upload(&vec![0xff; bytes as usize])?);
        }
        let size = padded(self.output.bytes());
        let mut initial = vec![SENTINEL; GUARD + size + GUARD];
        if let Some(i) = self.case.op.in_place() {
            initial[GUARD..GUARD + self.output.bytes()].copy_from_slice(&self.inputs[i]);
        }
        let output = buffers.len();
        buffers.push(upload(&initial)?);

        let bind = |arg: &Arg, write: bool| match *arg {
            Arg::Input(i) => Bind { slot: i, offset: 0, bytes: padded(self.inputs[i].len()) as u64, write },
            Arg::InputPart { index, offset, bytes } => {
                Bind { slot: index, offset, bytes: bytes.next_multiple_of(4), write }
            }
            Arg::Output => Bind { slot: output, offset: GUARD as u64, bytes: size as u64, write },
            Arg::Scratch(i) => Bind { slot: scratch + i, offset: 0, bytes: kernel.scratch[i], write },
        };
        let steps = kernel.stages.iter().map(|stage| {
            let reads = stage.reads.iter().map(|arg| bind(arg, false));
            let writes = stage.writes.iter().map(|arg| bind(arg, true));
            Step::Dispatch(stage.dispatch(stage.name, reads.chain(writes).collect()))
        });
        let recording =
            Recording { buffers: buffers.iter().map(Buffer::bytes).collect(), steps: steps.collect() };
        let prepared = gpu.prepare(&recording, &buffers)?;
        gpu.run(&prepared)?;
        let bytes = gpu.read_vec(&buffers[output])?;
        if bytes[..GUARD].iter().chain(&bytes[GUARD + size..][..GUARD]).any(|&b| b != SENTINEL) {
            return Err(Error::device(format!("wrote outside its output: {self}")));
        }
        for (i, expected) in &self.updates {
            let bytes = gpu.read_vec(&buffers[*i])?;
            let spec = self.case.inputs[*i].spec();
            self.compare(&spec, expected, &bytes[..spec.bytes()], kernel.rounding)?;
        }
        let actual = &bytes[GUARD..][..self.output.bytes()];
        let off = self.compare(&self.output, &self.expected, actual, kernel.rounding);
        if off.is_err() && kernel.rounding > 0.0 && self.case.inputs[0].spec().dtype == Dtype::F32 {
            let swing = self.swing(kernel.rounding)?;
            return self.within(4.0 * swing, &self.output, &widen(&self.expected, self.output.dtype), actual);
        }
        off
    }

    /// How far the result moves if values of the first input do as much as such a kernel's rounding moves them: up to an
    /// eighth of it, relative to the greatest of 32 neighbours. More than relative to the result where terms cancel or
    /// results multiply.
    fn swing(&self, rounding: f32) -> Result<f64> {
        let x: Vec<f32> = bytemuck::pod_collect_to_vec(&self.inputs[0]);
        let expected = widen(&self.expected, self.output.dtype);
        let mut random = Random(11);
        let mut most = 0f64;
        for _ in 0..3 {
            let moved = x.chunks(32).flat_map(|chunk| {
                let reach = rounding / 8.0 * chunk.iter().fold(0f32, |a, b| a.max(b.abs()));
                chunk.iter().map(move |x| (x, reach))
            });
            let moved: Vec<f32> =
                moved.map(|(x, reach)| x + reach * (random.bits() as f32 / 2f32.powi(31) - 1.0)).collect();
            let mut inputs = self.inputs.clone();
            inputs[0] = bytemuck::cast_slice(&moved).to_vec();
            let y = applied(&self.case, &arrays(&self.case, &inputs)?);
            let y = widen(&value(&y)?, self.output.dtype);
            most = expected.iter().zip(&y).fold(most, |most, (e, y)| most.max((e - y).abs()));
        }
        Ok(most)
    }

    /// Runs a native kernel and compares.
    ///
    /// # Errors
    /// A result that is too far off.
    pub fn cpu(&self, kernel: &CpuKernel) -> Result<()> {
        // Words, so that every dtype is aligned.
        let words = |bytes: &[u8]| -> Vec<u32> {
            let mut words = vec![0u32; bytes.len().div_ceil(4)];
            bytemuck::cast_slice_mut(&mut words)[..bytes.len()].copy_from_slice(bytes);
            words
        };
        let specs: Vec<Spec> = self.case.inputs.iter().map(Fill::spec).collect();
        let inputs: Vec<Vec<u32>> = self.inputs.iter().map(|b| words(b)).collect();
        let in_place = self.case.op.in_place();
        let refs: Vec<HostRef<'_>> = (0..inputs.len())
            .filter(|i| Some(*i) != in_place)
            .map(|i| HostRef {
                bytes: &bytemuck::cast_slice(&inputs[i])[..specs[i].bytes()],
                spec: &specs[i],
            })
            .collect();
        let mut out =
            in_place.map_or_else(|| words(&vec![SENTINEL; self.output.bytes()]), |i| inputs[i].clone());
        let bytes = &mut bytemuck::cast_slice_mut(&mut out)[..self.output.bytes()];
        kernel(&refs, HostMut { bytes, spec: &self.output });
        self.compare(&self.output, &self.expected, &bytemuck::cast_slice(&out)[..self.output.bytes()], 0.0)
    }

    fn compare(&self, spec: &Spec, expected: &[u8], actual: &[u8], rounding: f32) -> Result<()> {
        let expected = widen(expected, spec.dtype);
        let largest = expected.iter().fold(0f64, |a, b| a.max(b.abs()));
        self.within(tolerance(spec.dtype, self.case.reduction, rounding, largest), spec, &expected, actual)
    }

    fn within(&self, limit: f64, spec: &Spec, expected: &[f64], actual: &[u8]) -> Result<()> {
        let actual = widen(actual, spec.dtype);
        match expected.iter().zip(&actual).position(|(e, a)| (e - a).abs() > limit || a.is_nan()) {
            None => Ok(()),
            Some(i) => Err(Error::device(format!(
                "element {i} of {spec} is {}, not {} +- {limit:e}: {self}",
                actual[i], expected[i]
            ))),
        }
    }
}

fn arrays(case: &Case, inputs: &[Vec<u8>]) -> Result<Vec<MLXArray>> {
    let array = |(fill, bytes): (&Fill, &Vec<u8>)| {
        let spec = fill.spec();
        MLXArray::from_bytes(bytes, &spec.dims, spec.dtype, Device::CPU)
    };
    case.inputs.iter().zip(inputs).map(array).collect()
}

fn applied(case: &Case, inputs: &[MLXArray]) -> MLXArray {
    MLXArray::apply_shared(case.op.clone(), &inputs.iter().collect::<Vec<_>>())
}

/// What the definition gives.
fn value(x: &MLXArray) -> Result<Vec<u8>> {
    let mut bytes = vec![0; x.nbytes()];
    reference::eval(x)?.to_bytes(x.dtype(), &mut bytes);
    Ok(bytes)
}

/// How far a result may be from the definition: a few roundings of its type and of the kernel, times the root
/// of the number of terms, relative to the largest result.
pub(crate) fn tolerance(dtype: Dtype, terms: usize, rounding: f32, largest: f64) -> f64 {
    let kernel = f64::from(dtype.epsilon()) + f64::from(rounding);
    let rounding = kernel + f64::from(f32::EPSILON) * 8.0 * (terms as f64).sqrt();
    if dtype.is_float() { rounding * largest } else { 0.0 }
}

impl std::fmt::Display for Trial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} of", self.case.op)?;
        self.case.inputs.iter().try_for_each(|fill| write!(f, " {}", fill.spec()))?;
        write!(f, " -> {}", self.output)
    }
}

/// A small generator of the same numbers on every machine.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as u32 ^ (self.0 >> 20) as u32
    }

    /// Normally distributed, nearly: the sum of twelve uniform ones.
    fn normal(&mut self) -> f32 {
        (0..12).map(|_| (self.bits() >> 8) as f32 / (1 << 24) as f32).sum::<f32>() - 6.0
    }
}

/// An input in packed little-endian elements.
fn fill(fill: &Fill, random: &mut Random) -> Vec<u8> {
    let words = |values: &mut dyn Iterator<Item = u32>| values.flat_map(u32::to_le_bytes).collect();
    let floats = |values: Vec<f32>, dtype: Dtype| {
        let mut bytes = vec![0; values.len() * dtype.size()];
        Values::F(values).to_bytes(dtype, &mut bytes);
        bytes
    };
    match fill {
        Fill::Normal(spec) | Fill::Wide(spec) => {
            let row = spec.dims.last().copied().unwrap_or(1).max(1);
            let large = if matches!(fill, Fill::Wide(_)) { 131_072.0 } else { 1.0 };
            let factor = |i: usize| if (i / row) % 3 == 1 { large } else { 1.0 };
            let uneven = |i: usize| (0.5 + 0.25 * ((i / row) % 5) as f32) * factor(i);
            floats((0..spec.size()).map(|i| random.normal() * uneven(i)).collect(), spec.dtype)
        }
        Fill::Bits(spec) => words(&mut (0..spec.bytes() / 4).map(|_| random.bits())),
        Fill::Below(spec, bound) => words(&mut (0..spec.size()).map(|_| random.bits() % bound)),
        Fill::U32(_, values) => words(&mut values.iter().copied()),
        Fill::F32(_, values) => floats(values.clone(), Dtype::F32),
    }
}

/// Packed elements as numbers.
pub(crate) fn widen(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    match Values::from_bytes(bytes, dtype) {
        Values::F(v) => v.into_iter().map(f64::from).collect(),
        Values::U(v) => v.into_iter().map(f64::from).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Caps, or_skip};
    use crate::op::Site;
    use crate::ops;

    #[test]
    fn a_kernel_that_computes_something_else_is_seen() {
        let Some(gpu) = or_skip(Gpu::shared()) else { return };
        let (_, cases) = ops::ALL.iter().find(|(name, _)| *name == "gate").unwrap();
        let trial = Trial::new(cases().remove(0), 3).unwrap();
        let specs: Vec<Spec> = trial.case.inputs.iter().map(Fill::spec).collect();
        let site = Site { inputs: &specs, output: &trial.output, caps: gpu.caps() };
        let mut kernel = trial.case.op.kernels(&site).remove(0);
        trial.gpu(&gpu, &kernel).unwrap();
        for (name, value) in &mut kernel.stages[0].constants {
            *value = if *name == "ACT" { (*value + 1.0) % 3.0 } else { *value };
        }
        let e = trial.gpu(&gpu, &kernel).unwrap_err().to_string();
        assert!(e.contains("element") && e.contains("Gate"), "{e}");
    }

    #[test]
    fn rounding_excuses_no_more_than_it_moves() {
        let Some(gpu) = or_skip(Gpu::shared()) else { return };
        let caps = Caps { dot4: true, ..gpu.caps().clone() };
        if caps.subgroups.is_none() {
            return;
        }
        let (_, cases) = ops::ALL.iter().find(|(name, _)| *name == "linear").unwrap();
        let of_planes = |kernel: &Kernel| {
            kernel.stages.iter().flat_map(|stage| &stage.constants).any(|(name, _)| *name == "ZERO_FIRST")
        };
        let planes = |case: &Case| case.kernels(&caps).into_iter().find(of_planes);
        let (case, mut kernel) =
            cases().into_iter().find_map(|case| planes(&case).map(|kernel| (case, kernel))).unwrap();
        let trial = Trial::new(case, 3).unwrap();
        trial.gpu(&gpu, &kernel).unwrap();
        let largest = widen(&trial.expected, trial.output.dtype).iter().fold(0f64, |a, b| a.max(b.abs()));
        let swing = trial.swing(kernel.rounding).unwrap();
        assert!(swing > 0.0 && swing < 4.0 * f64::from(kernel.rounding) * largest, "{swing} of {largest}");
        // Codes of 8 bits, half of them off by one.
        let constants = kernel.stages.iter_mut().flat_map(|stage| &mut stage.constants);
        constants.filter(|(name, _)| *name == "ZERO_FIRST").for_each(|(_, value)| *value += 1.0);
        let e = trial.gpu(&gpu, &kernel).unwrap_err().to_string();
        assert!(e.contains("element") && e.contains("Linear"), "{e}");
    }
}

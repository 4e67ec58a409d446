//! What a GPU can do at best: the roofs that kernels are measured against.
//!
//! Small kernels that do one thing each: read memory, multiply and add in registers, or nothing at all.
//! Each is run for long enough to be timed by the GPU's own clock, a few times, and the best counts.

use std::fmt;
use std::sync::Arc;

use crate::error::Result;
use crate::gpu::{Bind, Buffer, Dispatch, Gpu, Recording, Step};
use crate::wgsl::{File, link, wgsl};

/// Measured roofs. Operations count 2 for each multiply-add.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Roofs {
    /// The adapter's name.
    pub adapter: String,
    /// Bytes of the buffer that was read.
    pub read_bytes: u64,
    /// Reads of memory by a kernel, 10^9 bytes per second.
    pub read: f64,
    /// f32 multiply-adds, 10^12 operations per second.
    pub f32: f64,
    /// Packed int8 dot products (`dot4I8Packed`), 10^12 operations per second.
    pub dot4: f64,
    /// Cooperative matrices, f16 into f32, 10^12 operations per second; `None` where there are none.
    pub coop: Option<f64>,
    /// A dispatch that uses what the one before wrote, in microseconds.
    pub dependent: f64,
    /// A dispatch on buffers of its own, in microseconds.
    pub independent: f64,
    /// Tensors written from the host, 10^9 bytes per second.
    pub upload: f64,
}

impl Roofs {
    /// Name, value and unit of each.
    pub fn rows(&self) -> Vec<(&'static str, f64, &'static str)> {
        let coop = self.coop.map(|rate| ("cooperative matrices, f16 to f32", rate, "TFLOP/s"));
        let mut rows = vec![
            ("memory read", self.read, "GB/s"),
            ("f32 multiply-add", self.f32, "TFLOP/s"),
            ("int8 dot product of 4", self.dot4, "TOP/s"),
        ];
        rows.extend(coop);
        rows.extend([
            ("dependent dispatch", self.dependent, "us"),
            ("independent dispatch", self.independent, "us"),
            ("upload", self.upload, "GB/s"),
        ]);
        rows
    }
}

impl fmt::Display for Roofs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.adapter)?;
        self.rows().iter().try_for_each(|(name, value, unit)| {
            let digits = if *value < 100.0 { 2 } else { 0 };
            writeln!(f, "{name:<33} {value:>9.digits$} {unit}")
        })
    }
}

/// Measures the roofs of a device: within a few seconds on a GPU, with less work on a software adapter,
/// whose figures say little.
///
/// # Errors
/// `is_memory`: not even a few megabytes are free; `is_device`.
pub fn roofs(gpu: &Arc<Gpu>) -> Result<Roofs> {
    let (read_bytes, read) = read(gpu)?;
    let caps = gpu.caps();
    let edge = if caps.coop16 { Some(16) } else { caps.coop8.then_some(8) };
    Ok(Roofs {
        adapter: gpu.name().to_string(),
        read_bytes,
        read: read / 1e9,
        f32: multiply(gpu, &FMA, &[1e-3f32.to_bits(), 0.5f32.to_bits()], 128)? / 1e12,
        dot4: multiply(gpu, &DOT4, &[0x0102_0304], 512)? / 1e12,
        coop: edge.map(|edge| coop(gpu, edge)).transpose()?.map(|rate| rate / 1e12),
        dependent: dispatch(gpu, true)? * 1e6,
        independent: dispatch(gpu, false)? * 1e6,
        upload: gpu.measure_upload()?,
    })
}

static FILL: File = wgsl!("roof_fill.wgsl");
static READ: File = wgsl!("roof_read.wgsl");
static FMA: File = wgsl!("roof_fma.wgsl");
static DOT4: File = wgsl!("roof_dot4.wgsl");
static COOP: File = wgsl!("roof_coop.wgsl");
static STEP: File = wgsl!("roof_step.wgsl");

/// Long enough for clocks to settle and for timestamps to be exact, in seconds.
const LONG: f64 = 0.01;
const REPEATS: usize = 3;

/// One dispatch; `slots` are whole buffers, in binding order, and whether they are written.
fn kernel(
    file: &'static File,
    generated: &str,
    slots: &[(usize, &Buffer, bool)],
    params: Vec<u32>,
    grid: u32,
) -> Dispatch {
    let bind = |&(slot, buffer, write): &(usize, &Buffer, bool)| Bind {
        slot,
        offset: 0,
        bytes: buffer.bytes(),
        write,
    };
    Dispatch {
        name: file.name.trim_end_matches(".wgsl").to_string(),
        source: link(&[file], generated),
        constants: Vec::new(),
        binds: slots.iter().map(bind).collect(),
        params,
        grid: [grid, 1, 1],
    }
}

/// The least seconds that dispatches took together.
fn best(gpu: &Arc<Gpu>, buffers: &[Buffer], dispatches: Vec<Dispatch>) -> Result<f64> {
    let recording = Recording {
        buffers: buffers.iter().map(Buffer::bytes).collect(),
        steps: dispatches.into_iter().map(Step::Dispatch).collect(),
    };
    let prepared = gpu.prepare(&recording, buffers)?;
    gpu.run_elapsed(&prepared)?;
    (0..REPEATS).try_fold(f64::INFINITY, |least, _| {
        // A clock that has not moved would say infinite speed.
        gpu.run_elapsed(&prepared).map(|seconds| least.min(seconds.max(1e-9)))
    })
}

/// The size of the buffer that could be had, and the bytes per second at which it was read.
fn read(gpu: &Arc<Gpu>) -> Result<(u64, f64)> {
    let caps = gpu.caps();
    let most = if gpu.is_software() { 16 << 20 } else { 2 << 30 };
    let mut bytes: u64 = most.min(caps.max_binding) & !0xffff;
    let x = loop {
        match gpu.alloc(bytes) {
            Err(e) if e.is_memory() && bytes > 4 << 20 => bytes /= 2,
            outcome => break outcome?,
        }
    };
    let buffers = [x, gpu.alloc(4)?];
    let vectors = (bytes / 16) as u32;
    let fill = kernel(&FILL, "", &[(0, &buffers[0], true)], vec![vectors, 4096 * 256], 4096);
    best(gpu, &buffers, vec![fill])?;
    // Few workgroups that stay, or many that come and go; which is better differs between makers.
    let shapes: &[(u32, u32)] = match gpu.is_software() {
        true => &[(256, 16)],
        false => &[(256, 1024), (256, 4096), (256, 16384), (128, 8192), (512, 2048)],
    };
    let mut rate = 0f64;
    for &(size, grid) in shapes.iter().filter(|(size, _)| *size <= caps.workgroup_size) {
        let threads = size * grid;
        let n = vectors / (4 * threads) * (4 * threads);
        if n == 0 {
            continue;
        }
        let slots = [(0, &buffers[0], false), (1, &buffers[1], true)];
        let mut read = kernel(&READ, "", &slots, vec![n, threads], grid);
        read.constants = vec![("WG", f64::from(size))];
        rate = rate.max(f64::from(n) * 16.0 / best(gpu, &buffers, vec![read])?);
    }
    Ok((bytes, rate))
}

/// Operations per second of a kernel that does `operations` per invocation and round.
fn multiply(gpu: &Arc<Gpu>, file: &'static File, params: &[u32], operations: u32) -> Result<f64> {
    let buffers = [gpu.alloc(4)?];
    let grid = if gpu.is_software() { 4 } else { 4096 };
    long_enough(|rounds| {
        let params = [&[rounds], params].concat();
        let seconds = best(gpu, &buffers, vec![kernel(file, "", &[(0, &buffers[0], true)], params, grid)])?;
        let work = f64::from(grid) * 256.0 * f64::from(rounds) * f64::from(operations);
        Ok((seconds, work / seconds))
    })
}

/// Operations per second of products of cooperative matrices.
fn coop(gpu: &Arc<Gpu>, edge: u32) -> Result<f64> {
    let elements = edge * edge * 4;
    let buffers = [gpu.alloc(u64::from(elements) * 2)?, gpu.alloc(u64::from(edge * edge) * 4)?];
    let halves: Vec<half::f16> =
        (0..elements).map(|i| half::f16::from_f32((i * 37 % 101) as f32 / 101.0 - 0.5)).collect();
    gpu.write(&buffers[0], 0, bytemuck::cast_slice(&halves))?;
    // As many subgroups as there must be; where they may be smaller there are more, and the roof is higher.
    let subgroup = gpu.caps().subgroups.map_or(32, |(_, most)| most);
    let (size, grid) = (4 * subgroup, 2048);
    long_enough(|rounds| {
        let slots = [(0, &buffers[0], false), (1, &buffers[1], true)];
        let mut products = kernel(&COOP, &coop_types(edge), &slots, vec![rounds], grid);
        products.constants = vec![("WG", f64::from(size))];
        let seconds = best(gpu, &buffers, vec![products])?;
        let products = f64::from(grid) * 4.0 * f64::from(rounds) * 8.0;
        Ok((seconds, products * 2.0 * f64::from(edge).powi(3) / seconds))
    })
}

/// The lines that `roof_coop.wgsl` asks for.
fn coop_types(edge: u32) -> String {
    let alias =
        |name: char, kind: &str| format!("alias Mat{name} = coop_mat{edge}x{edge}<{kind}, {name}>;\n");
    format!("const EDGE: u32 = {edge};\n{}{}{}", alias('A', "f16"), alias('B', "f16"), alias('C', "f32"))
}

/// Calls `measure` with more and more rounds until they take long enough; its rate then. It returns seconds
/// and a rate.
fn long_enough(mut measure: impl FnMut(u32) -> Result<(f64, f64)>) -> Result<f64> {
    let mut rounds = 4;
    loop {
        let (seconds, rate) = measure(rounds)?;
        if seconds > LONG || rounds >= 1 << 14 {
            return Ok(rate);
        }
        let more = (1.5 * LONG / seconds).clamp(4.0, 64.0);
        rounds = ((f64::from(rounds) * more) as u32).min(1 << 14);
    }
}

/// Seconds per dispatch in a chain of them, each of which needs the one before or none of which does.
fn dispatch(gpu: &Arc<Gpu>, dependent: bool) -> Result<f64> {
    let count = if gpu.is_software() { 20 } else { 200 };
    let distinct = if dependent { 1 } else { count };
    let buffers = (0..distinct).map(|_| gpu.alloc_zeroed(256)).collect::<Result<Vec<_>>>()?;
    let step = |i: usize| {
        let slot = i % distinct;
        kernel(&STEP, "", &[(slot, &buffers[slot], true)], Vec::new(), 1)
    };
    Ok(best(gpu, &buffers, (0..count).map(step).collect())? / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use naga::back;

    /// Each kernel as SPIR-V and MSL, and as HLSL but for matrices, which it has not.
    #[test]
    fn every_kernel_translates() {
        let plain = [&FILL, &READ, &FMA, &DOT4, &STEP].map(|file| (link(&[file], ""), true));
        let coops = [8, 16].map(|edge| (link(&[&COOP], &coop_types(edge)), false));
        for (source, hlsl) in plain.into_iter().chain(coops) {
            let module = source.parse().unwrap();
            let info = source.validate(&module, naga::valid::Capabilities::all()).unwrap();
            let entry = Some((naga::ShaderStage::Compute, "main"));
            let (module, info) =
                back::pipeline_constants::process_overrides(&module, &info, entry, &Default::default())
                    .unwrap();
            back::spv::write_vec(&module, &info, &Default::default(), None).unwrap();
            let msl = back::msl::Options { lang_version: (2, 4), ..Default::default() };
            back::msl::write_string(&module, &info, &msl, &Default::default()).unwrap();
            if hlsl {
                let options =
                    back::hlsl::Options { shader_model: back::hlsl::ShaderModel::V6_4, ..Default::default() };
                let mut text = String::new();
                let none = Default::default();
                back::hlsl::Writer::new(&mut text, &options, &none).write(&module, &info, None).unwrap();
            }
        }
    }

    #[test]
    fn every_roof_is_a_number() {
        let Some(gpu) = crate::gpu::or_skip(Gpu::shared()) else { return };
        let roofs = roofs(&gpu).unwrap();
        assert!(roofs.rows().iter().all(|(_, value, _)| value.is_finite() && *value > 0.0), "{roofs}");
        assert!(roofs.read_bytes >= 4 << 20);
        assert_eq!(roofs.coop.is_some(), gpu.caps().has_matrix_units());
        let text = roofs.to_string();
        assert!(text.starts_with(gpu.name()) && text.contains("memory read"), "{text}");
    }
}

//! Products of matrices whose elements stand in registers.
//!
//! WGSL's cooperative matrices are loaded from memory and show no element, SPIR-V's do. So kernels call
//! `fragment_product` of `wgsl/parts/fragments.wgsl`, a function like any other, defined there by way of workgroup memory;
//! and where the driver offers the matrices, and a trial has shown that their elements are where that definition has them,
//! its body becomes one cooperative product ([SPV_KHR_cooperative_matrix]). `fragment_pairs`, which sorts the halves of
//! words, becomes a shuffle of vectors of halves: NVIDIA's driver (580) takes twice as many instructions for masks and shifts.
//!
//! [SPV_KHR_cooperative_matrix]: https://github.khronos.org/SPIRV-Registry/extensions/KHR/SPV_KHR_cooperative_matrix.html

use std::sync::Arc;

use half::f16;
use naga::back::spv;
use naga::proc::{BoundsCheckPolicies, BoundsCheckPolicy};
use naga::valid::ModuleInfo;
use spirv::{Capability, CooperativeMatrixUse, Op, Scope};

use crate::error::{Error, Result};
use crate::gpu::{Bind, Dispatch, Gpu, Recording, Step};
use crate::wgsl::{File, link, wgsl};

/// The functions that become instructions.
const PRODUCT: &str = "fragment_product";
const PAIRS: &str = "fragment_pairs";
static CANARY: File = wgsl!("canary_fragments.wgsl");
static FRAGMENTS: File = wgsl!("parts/fragments.wgsl");

/// Rows, columns and inner size of a product.
pub(super) const SHAPE: [u32; 3] = [16, 8, 16];

/// Whether a shader multiplies fragments.
pub(super) fn are_in(module: &naga::Module) -> bool {
    module.functions.iter().any(|(_, function)| function.name.as_deref() == Some(PRODUCT))
}

/// The shader as SPIR-V without any checks.
pub(super) fn compile(module: &naga::Module, info: &ModuleInfo) -> Result<Vec<u32>> {
    let unchecked = BoundsCheckPolicy::Unchecked;
    let options = spv::Options {
        lang_version: (1, 6),
        flags: spv::WriterFlags::DEBUG,
        bounds_check_policies: BoundsCheckPolicies {
            index: unchecked,
            buffer: unchecked,
            image_load: unchecked,
            binding_array: unchecked,
        },
        zero_initialize_workgroup_memory: spv::ZeroInitializeWorkgroupMemoryMode::None,
        force_loop_bounding: false,
        emit_int_div_checks: false,
        ..spv::Options::default()
    };
    let entry = spv::PipelineOptions { shader_stage: naga::ShaderStage::Compute, entry_point: "main".into() };
    let words = spv::write_vec(module, info, &options, Some(&entry)).map_err(Error::device)?;
    with_instructions(&words).ok_or_else(|| Error::device(format!("no `{PRODUCT}` as expected in SPIR-V")))
}

/// An instruction: its opcode, and all its words.
type Instruction<'a> = (u32, &'a [u32]);

fn instructions(mut words: &[u32]) -> Vec<Instruction<'_>> {
    let mut all = Vec::new();
    while let Some(first) = words.first() {
        let count = ((first >> 16) as usize).clamp(1, words.len());
        let (own, rest) = words.split_at(count);
        all.push((first & 0xffff, own));
        words = rest;
    }
    all
}

/// Words of a module that is written.
struct Writer {
    words: Vec<u32>,
    /// The next id.
    bound: u32,
}

impl Writer {
    fn put(&mut self, op: Op, operands: &[u32]) {
        self.words.push((operands.len() as u32 + 1) << 16 | op as u32);
        self.words.extend(operands);
    }

    fn copy(&mut self, instructions: &[Instruction<'_>]) {
        instructions.iter().for_each(|(_, own)| self.words.extend(*own));
    }

    /// A new id, which an instruction gives to what it makes, of this type.
    fn made(&mut self, op: Op, of: u32, operands: &[u32]) -> u32 {
        self.bound += 1;
        self.put(op, &[&[of, self.bound - 1], operands].concat());
        self.bound - 1
    }

    fn declared(&mut self, op: Op, operands: &[u32]) -> u32 {
        self.bound += 1;
        self.put(op, &[&[self.bound - 1], operands].concat());
        self.bound - 1
    }
}

/// Types that a product needs.
struct Types {
    word: u32,
    float: u32,
    half: u32,
    halves: u32,
    /// Of both factors and the sum.
    matrices: [u32; 3],
}

impl Types {
    /// Those that are declared already, and the others, which are now. The shader has words and floats.
    fn new(before: &[Instruction<'_>], out: &mut Writer) -> Option<Types> {
        let find = |op: Op, operands: &[u32]| {
            let is = |(code, own): &&Instruction<'_>| *code == op as u32 && own[2..].starts_with(operands);
            before.iter().find(is).map(|(_, own)| own[1])
        };
        let word = find(Op::TypeInt, &[32, 0])?;
        let float = find(Op::TypeFloat, &[32])?;
        let half = find(Op::TypeFloat, &[16]).unwrap_or_else(|| out.declared(Op::TypeFloat, &[16]));
        let halves =
            find(Op::TypeVector, &[half, 2]).unwrap_or_else(|| out.declared(Op::TypeVector, &[half, 2]));
        let mut number = |n: u32| out.made(Op::Constant, word, &[n]);
        let scope = number(Scope::Subgroup as u32);
        let [m, n, k] = SHAPE.map(&mut number);
        let uses = [
            CooperativeMatrixUse::MatrixAKHR,
            CooperativeMatrixUse::MatrixBKHR,
            CooperativeMatrixUse::MatrixAccumulatorKHR,
        ];
        let [a, b, sum] = uses.map(|of| number(of as u32));
        let mut matrix =
            |of: [u32; 4]| out.declared(Op::TypeCooperativeMatrixKHR, &[of[0], scope, of[1], of[2], of[3]]);
        let matrices = [[half, m, k, a], [half, k, n, b], [float, m, n, sum]].map(&mut matrix);
        Some(Types { word, float, half, halves, matrices })
    }
}

/// The words of a string.
fn text(name: &str) -> Vec<u32> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(name.len() / 4 * 4 + 4, 0);
    bytes.chunks(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect()
}

/// A module with the bodies of these functions made instructions; `None` if it has no products.
fn with_instructions(words: &[u32]) -> Option<Vec<u32>> {
    const HEADER: usize = 5;
    let all = instructions(words.get(HEADER..)?);
    let is = |op: Op| move |(code, _): &Instruction<'_>| *code == op as u32;
    let find = |name: &str| {
        let name = text(name);
        let named = |(code, own): &&Instruction<'_>| *code == Op::Name as u32 && own[2..] == name;
        let id = all.iter().find(named)?.1[1];
        let start = all.iter().position(|found| is(Op::Function)(found) && found.1[2] == id)?;
        let from_start = |op: Op| Some(start + all[start..].iter().position(is(op))?);
        Some((start, from_start(Op::Label)?, from_start(Op::FunctionEnd)?))
    };
    let mut bodies = vec![(find(PRODUCT)?, Types::product as Body)];
    bodies.extend(find(PAIRS).map(|place| (place, Types::pairs as Body)));
    bodies.sort_by_key(|(place, _)| *place);
    let capabilities = all.iter().position(|found| !is(Op::Capability)(found))?;
    let functions = all.iter().position(is(Op::Function))?;

    let mut out = Writer { words: words[..HEADER].to_vec(), bound: words[3] };
    out.copy(&all[..capabilities]);
    out.put(Op::Capability, &[Capability::Float16 as u32]);
    out.put(Op::Capability, &[Capability::CooperativeMatrixKHR as u32]);
    out.put(Op::Extension, &text("SPV_KHR_cooperative_matrix"));
    out.copy(&all[capabilities..functions]);
    let types = Types::new(&all[..functions], &mut out)?;
    let mut at = functions;
    for ((start, label, end), body) in bodies {
        out.copy(&all[at..label]);
        let parameters: Vec<u32> = all[start + 1..label].iter().map(|(_, own)| own[2]).collect();
        out.declared(Op::Label, &[]);
        let result = body(&types, &mut out, all[start].1[1], &parameters)?;
        out.put(Op::ReturnValue, &[result]);
        at = end;
    }
    out.copy(&all[at..]);
    out.words[3] = out.bound;
    Some(out.words)
}

/// What a function does with its parameters, for a result of a type.
type Body = fn(&Types, &mut Writer, u32, &[u32]) -> Option<u32>;

impl Types {
    /// Registers become matrices, their product with the sum becomes registers.
    fn product(&self, out: &mut Writer, result: u32, parameters: &[u32]) -> Option<u32> {
        let [a, b, c, ..] = *parameters else { return None };
        let mut factor = |matrix: u32, words: u32, from: u32| {
            let mut so_far = out.made(Op::Undef, matrix, &[]);
            for i in 0..words {
                let word = out.made(Op::CompositeExtract, self.word, &[from, i]);
                let halves = out.made(Op::Bitcast, self.halves, &[word]);
                for j in 0..2 {
                    let half = out.made(Op::CompositeExtract, self.half, &[halves, j]);
                    so_far = out.made(Op::CompositeInsert, matrix, &[half, so_far, 2 * i + j]);
                }
            }
            so_far
        };
        let [of_a, of_b, of_c] = self.matrices;
        let (a, b) = (factor(of_a, 4, a), factor(of_b, 2, b));
        let mut sum = out.made(Op::Undef, of_c, &[]);
        for i in 0..4 {
            let value = out.made(Op::CompositeExtract, self.float, &[c, i]);
            sum = out.made(Op::CompositeInsert, of_c, &[value, sum, i]);
        }
        let product = out.made(Op::CooperativeMatrixMulAddKHR, of_c, &[a, b, sum]);
        let values = [0, 1, 2, 3].map(|i| out.made(Op::CompositeExtract, self.float, &[product, i]));
        Some(out.made(Op::CompositeConstruct, result, &values))
    }

    fn pairs(&self, out: &mut Writer, result: u32, parameters: &[u32]) -> Option<u32> {
        let [a, b] = *parameters else { return None };
        let [a, b] = [a, b].map(|word| out.made(Op::Bitcast, self.halves, &[word]));
        let words = [[0, 2], [1, 3]].map(|[i, j]| {
            let pair = out.made(Op::VectorShuffle, self.halves, &[a, b, i, j]);
            out.made(Op::Bitcast, self.word, &[pair])
        });
        Some(out.made(Op::CompositeConstruct, result, &words))
    }
}

impl Gpu {
    /// Runs a product of which every element is known, and compares.
    ///
    /// # Errors
    /// `is_device`: it does not run, or elements are other than they should be or elsewhere.
    pub(super) fn try_fragments(self: &Arc<Self>) -> Result<()> {
        // Small whole numbers: sums are exact. Some factors are below what f16 has normal numbers for.
        let mut state = 1u32;
        let mut small = |most: u32| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 16) % most
        };
        let tiny = f32::powi(2.0, -24);
        let a: Vec<u32> = (0..16 * 16).map(|_| small(256)).collect();
        let b: Vec<u32> = (0..16 * 8).map(|_| small(1024)).collect();
        let c: Vec<u32> = (0..16 * 8).map(|_| small(1024)).collect();
        let pair = |low: u16, high: u16| u32::from(low) | u32::from(high) << 16;
        let of_a = |row: usize, k: usize| a[row * 16 + k] as u16;
        let of_b = |k: usize, column: usize| f16::from_f32(b[k * 8 + column] as f32).to_bits();
        let of_c = |row: usize, column: usize| tiny * c[row * 8 + column] as f32;
        let wanted = |row: usize, column: usize| {
            let term = |k: usize| a[row * 16 + k] * b[k * 8 + column];
            tiny * (c[row * 8 + column] + (0..16).map(term).sum::<u32>()) as f32
        };
        let (mut words_a, mut words_b, mut words_c, mut result) = (vec![], vec![], vec![], vec![]);
        for lane in 0..32 {
            let (g, t) = (lane / 4, lane % 4);
            let inner = [2 * t, 2 * t + 8];
            words_b.extend(inner.map(|k| pair(of_b(k, g), of_b(k + 1, g))));
            for row in [g, g + 8] {
                words_a.extend(inner.map(|k| pair(of_a(row, k), of_a(row, k + 1))));
                words_c.extend([2 * t, 2 * t + 1].map(|column| of_c(row, column)));
                result.extend([2 * t, 2 * t + 1].map(|column| wanted(row, column)));
            }
        }
        let inputs: [&[u8]; 3] =
            [bytemuck::cast_slice(&words_a), bytemuck::cast_slice(&words_b), bytemuck::cast_slice(&words_c)];
        let sizes = [inputs[0].len(), inputs[1].len(), inputs[2].len(), 4 * result.len()].map(|n| n as u64);
        let binds = (0..4).map(|slot| Bind { slot, offset: 0, bytes: sizes[slot], write: slot == 3 });
        let dispatch = Dispatch {
            name: "canary_fragments".into(),
            source: link(&[&CANARY, &FRAGMENTS], ""),
            constants: vec![],
            binds: binds.collect(),
            params: vec![],
            grid: [1, 1, 1],
        };
        let buffers = sizes.iter().map(|&size| self.alloc(size)).collect::<Result<Vec<_>>>()?;
        for (buffer, input) in buffers.iter().zip(inputs) {
            self.write(buffer, 0, input)?;
        }
        let recording = Recording { buffers: sizes.to_vec(), steps: vec![Step::Dispatch(dispatch)] };
        self.run(&self.prepare(&recording, &buffers)?)?;
        let mut y = vec![0f32; result.len()];
        self.read(&buffers[3], 0, bytemuck::cast_slice_mut(&mut y))?;
        match y == result {
            true => Ok(()),
            false => Err(Error::device(format!("a product of matrices is {y:?}, should be {result:?}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compiled(text: &'static str) -> Result<Vec<u32>> {
        let file = File { name: "kernel.wgsl", text };
        let source = link(&[&file, &FRAGMENTS], "");
        let module = source.parse().map_err(Error::device)?;
        let info = source.validate(&module, naga::valid::Capabilities::all()).map_err(Error::device)?;
        let constants = [("WG".to_owned(), 32.0)].into_iter().collect();
        let main = Some((naga::ShaderStage::Compute, "main"));
        let (module, info) =
            naga::back::pipeline_constants::process_overrides(&module, &info, main, &constants).unwrap();
        compile(&module, &info)
    }

    fn count(words: &[u32], op: Op) -> usize {
        instructions(&words[5..]).iter().filter(|(code, _)| *code == op as u32).count()
    }

    #[test]
    fn bodies_become_instructions() {
        let words = compiled(
            "override WG: u32 = 32;\n\
             @group(0) @binding(0) var<storage, read_write> y: array<vec4<f32>>;\n\
             @compute @workgroup_size(WG) fn main(@builtin(local_invocation_index) i: u32) {\n\
             let b = fragment_pairs(i, i + 1u);\n\
             y[i] = fragment_product(vec4<u32>(i), b, y[i], i) + fragment_product(vec4<u32>(3u), b, y[i], i);\n}\n",
        )
        .unwrap();
        assert_eq!(count(&words, Op::CooperativeMatrixMulAddKHR), 1);
        assert_eq!(count(&words, Op::TypeCooperativeMatrixKHR), 3);
        assert_eq!(count(&words, Op::ControlBarrier), 0);
        assert_eq!(count(&words, Op::Function), count(&words, Op::FunctionEnd));
        // Every result has an id of its own, below the bound.
        let ids: Vec<u32> = instructions(&words[5..])
            .iter()
            .filter(|(code, _)| *code == Op::CompositeInsert as u32 || *code == Op::Undef as u32)
            .map(|(_, own)| own[2])
            .collect();
        let distinct: std::collections::HashSet<u32> = ids.iter().copied().collect();
        assert_eq!(distinct.len(), ids.len());
        assert!(ids.iter().all(|id| *id < words[3]));
    }

    #[test]
    fn a_shader_without_products_is_an_error() {
        let message = compiled(
            "override WG: u32 = 32;\n\
             @group(0) @binding(0) var<storage, read_write> y: array<u32>;\n\
             @compute @workgroup_size(WG) fn main(@builtin(local_invocation_index) i: u32) { y[i] = i; }\n",
        )
        .unwrap_err()
        .to_string();
        assert!(message.contains("fragment_product"), "{message}");
    }

    #[test]
    fn products_are_what_they_are_defined_as() {
        let Some(gpu) = crate::gpu::tests::open(&["fragments"]) else { return };
        gpu.try_fragments().unwrap();
    }
}

//! Rows of new keys or values go into a packed cache, in place; and the rotation that packed heads have.

use super::kernel::{PACK, places, spread};
use super::packing::{pack, rotated};
use crate::array::MLXArray;
use crate::cpu::{self, Packing};
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static KV_PACK: File = wgsl!("kv_pack.wgsl");
static ROTATE: File = wgsl!("rotate.wgsl");
static WALSH: File = wgsl!("parts/walsh.wgsl");

/// `[cache [cap, words] u32, rows [t, kv_heads * d] f32, places [t, 2] u32, centre [kv_heads * d] f32 if centred]`
/// `-> cache` with row `places[i, 0] + places[i, 1]` replaced by the codes of `rows[i]`, less the centre; a row
/// past the end is skipped.
///
/// Each head is rotated (fixed signs, then a Walsh-Hadamard transform) and coded in groups that share a scale,
/// as [`Packing`] says. A constant taken off all keys changes no softmax, so attention need not know it.
#[derive(Clone, Debug)]
pub struct KvPack {
    /// How rows are coded.
    pub packing: Packing,
    /// Values of a head.
    pub head_dim: usize,
}

/// Greatest head, and heads that one workgroup takes: scales of two fill whole words.
const MAX_HEAD: usize = 256;
const HEADS: usize = 2;

impl Op for KvPack {
    fn name(&self) -> &'static str {
        "kv_pack"
    }

    fn words(&self) -> Vec<Word> {
        let Packing { bits, group, affine } = self.packing;
        vec![bits.into(), group.into(), Word::U32(affine.into()), self.head_dim.into()]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (cache, rows, places) = (&inputs[0], &inputs[1], &inputs[2]);
        let ([t, width], d) = ([rows.dims()[0], rows.dims()[1]], self.head_dim);
        let fits = width % d == 0
            && cache.dims()[1] == self.packing.row_words(width / d, d)
            && cache.dtype() == Dtype::U32
            && !(self.packing.affine && d % self.packing.group != 0);
        assert!(fits, "{self:?} of {}, {}", cache.spec(), rows.spec());
        let centred = inputs.get(3).map_or_else(|| rows.clone(), |centre| rows - centre);
        let words = pack(self.packing, &centred.reshape(&[t, width / d, d]));
        let row = &places.slice(1, 0, 1) + &places.slice(1, 1, 1);
        cache.put(&words, &row.reshape(&[t]))
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let (width, d) = (site.inputs[1].axis(1), self.head_dim);
        if d > MAX_HEAD {
            return Vec::new();
        }
        let (heads, tokens) = (width / d, site.inputs[2].dims[0]);
        let (grid, stride) = spread(tokens * heads.div_ceil(HEADS));
        let centred = site.inputs.len() > 3;
        let mut stage = Stage {
            name: "kv_pack",
            files: vec![&KV_PACK, &WALSH, &PACK],
            constants: vec![
                ("BITS", f64::from(self.packing.bits)),
                ("GROUP", self.packing.group as f64),
                ("AFFINE", f64::from(u8::from(self.packing.affine))),
                ("CENTRED", f64::from(u8::from(centred))),
            ],
            reads: vec![Arg::Input(1), Arg::Input(2)],
            writes: vec![Arg::Output],
            params: vec![
                ("tokens", tokens.into()),
                ("heads", heads.into()),
                ("d", d.into()),
                ("words", site.output.axis(1).into()),
                ("capacity", site.output.axis(2).into()),
                ("stride", stride),
                ("edge", self.packing.edge().into()),
                ("reach", self.packing.reach().into()),
                ("norm", cpu::rotation_norm(1 << d.trailing_zeros()).into()),
            ],
            grid,
            ..Stage::default()
        };
        // Without centres the rows stand in for them, unread.
        stage.reads.push(Arg::Input(if centred { 3 } else { 1 }));
        vec![stage.into()]
    }

    fn cpu(&self, _: &[Spec]) -> Option<CpuKernel> {
        let Self { packing, head_dim } = *self;
        Some(Box::new(move |x, mut cache| {
            let (rows, places) = (x[0].as_slice(), places(&x[1]));
            let centre = x.get(2).map(|c| c.as_slice());
            cpu::kv_pack(packing, cache.as_mut_slice(), rows, places, centre, head_dim);
        }))
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }
}

/// `[x [t, heads, d] f32] -> x` with each head in the basis of a packed cache, `H D x`, or out of it, `D H x`.
///
/// `D` are fixed signs; `H` is the normalised Walsh-Hadamard transform of the greatest power of two that
/// divides `d`, block by block.
#[derive(Clone, Debug)]
pub struct Rotate {
    /// Out of the basis instead of into it.
    pub inverse: bool,
}

impl Op for Rotate {
    fn name(&self) -> &'static str {
        "rotate"
    }

    fn words(&self) -> Vec<Word> {
        vec![Word::U32(self.inverse.into())]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let [t, heads, d] = *inputs[0].dims() else { panic!("rotate of {}", inputs[0].spec()) };
        rotated(&inputs[0].reshape(&[t * heads, d]), self.inverse).reshape(&[t, heads, d])
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let d = site.output.axis(1);
        if d > MAX_HEAD {
            return Vec::new();
        }
        let heads = site.output.size() / d;
        let (grid, stride) = spread(heads.div_ceil(HEADS));
        let stage = Stage {
            name: "rotate",
            files: vec![&ROTATE, &WALSH],
            constants: vec![("INVERSE", f64::from(u8::from(self.inverse)))],
            reads: vec![Arg::Input(0)],
            writes: vec![Arg::Output],
            params: vec![
                ("heads", heads.into()),
                ("d", d.into()),
                ("stride", stride),
                ("norm", cpu::rotation_norm(1 << d.trailing_zeros()).into()),
            ],
            grid,
            ..Stage::default()
        };
        vec![stage.into()]
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let (d, inverse) = (inputs[0].axis(1), self.inverse);
        Some(Box::new(move |x, mut y| cpu::rotate(x[0].as_slice(), d, inverse, y.as_mut_slice())))
    }
}

/// Sizes worth testing of [`KvPack`].
pub(super) fn cases() -> Vec<Case> {
    let case = |packing: Packing, [cap, heads, d]: [usize; 3], rows: &[u32], centred: bool| {
        let words = packing.row_words(heads, d);
        let mut inputs = vec![
            Fill::Bits(Spec::new(&[cap, words], Dtype::U32)),
            Fill::Normal(Spec::new(&[rows.len(), heads * d], Dtype::F32)),
            // Sequences begin anywhere.
            Fill::U32(vec![rows.len(), 2], rows.iter().flat_map(|&row| [row - row / 2, row / 2]).collect()),
        ];
        if centred {
            inputs.push(Fill::Normal(Spec::new(&[heads * d], Dtype::F32)));
        }
        Case { op: Arc::new(KvPack { packing, head_dim: d }), inputs, reduction: 1 }
    };
    vec![
        case(Packing::rotated(8), [9, 2, 128], &[4], true),
        case(Packing::rotated(4), [40, 3, 64], &[3, 4, 5, 19, 40, 0], true),
        case(Packing::rotated(3), [5, 2, 128], &[1, 3], false),
        case(Packing::rotated(3), [5, 1, 80], &[0], true),
        case(Packing::rotated(5), [5, 3, 96], &[2, 0], false),
        case(Packing::rotated(2), [3, 1, 7], &[2], false),
        case(Packing::rotated(4), [3, 4, 256], &[2, 1], true),
        case(Packing::affine(8, 64), [9, 2, 64], &[4, 7], false),
        case(Packing::affine(4, 32), [9, 3, 32], &[0, 1, 2], false),
    ]
}

/// Sizes worth testing of [`Rotate`].
pub(super) fn rotate_cases() -> Vec<Case> {
    let case = |[t, h, d]: [usize; 3], inverse| Case {
        op: Arc::new(Rotate { inverse }),
        inputs: vec![Fill::Normal(Spec::new(&[t, h, d], Dtype::F32))],
        reduction: d,
    };
    vec![
        case([1, 8, 128], false),
        case([3, 3, 64], true),
        case([2, 1, 80], false),
        case([2, 5, 96], true),
        case([1, 3, 7], false),
        case([2, 2, 256], true),
    ]
}

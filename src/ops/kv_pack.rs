//! Rows of new keys or values go into a packed cache, in place; and the rotation that packed heads have.

use super::attention::MAX_HEAD;
use super::kernel::{PACK, places, spread};
use super::packing::{apart, pack, signs, together, transformed};
use super::pages::{PAGES, rows_at};
use crate::array::MLXArray;
use crate::cpu::{self, BASIS_ROWS, Basis, BasisRow, PAGE, Packing};
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, HostRef, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static KV_PACK: File = wgsl!("kv_pack.wgsl");
static ROTATE: File = wgsl!("rotate.wgsl");
pub(super) static TILED_WORDS: File = wgsl!("parts/tiled_words.wgsl");
pub(super) static WALSH: File = wgsl!("parts/walsh.wgsl");
pub(super) static SIGNS: File = wgsl!("parts/signs.wgsl");

/// `[cache [cap, words] u32, rows [t, kv_heads * d] f32, places [t, 2] u32, table [pages] u32,`
/// `basis [5, kv_heads * d] f32 if there is one] -> cache` with logical row `places[i, 0] + places[i, 1]` replaced by
/// the codes of `H ((rows[i] - centre) * factor)`; a row past the end is skipped.
///
/// `H` is the normalised Walsh-Hadamard transform of the greatest power of two that divides `d`, block by block. A basis
/// has a row of centres of keys and rows of factors of keys, of queries, of values and of results, in which are the
/// rotation's fixed signs; without one there are these alone. Codes are of groups that share a scale, as [`Packing`] says.
#[derive(Clone, Copy, Debug)]
pub struct KvPack {
    /// How rows are coded.
    pub packing: Packing,
    /// Whether they are values; else keys.
    pub values: bool,
    /// Values of a head.
    pub head_dim: usize,
}

/// A row of a basis, `[1, kv_heads * d]`.
fn row_of(basis: &MLXArray, row: BasisRow) -> MLXArray {
    assert!(basis.dims().len() == 2 && basis.dims()[0] == BASIS_ROWS, "a basis of {}", basis.spec());
    basis.slice(0, row as usize, 1)
}

impl KvPack {
    /// The row of factors in a basis.
    fn row(&self) -> BasisRow {
        if self.values { BasisRow::Value } else { BasisRow::Key }
    }
}

/// Heads that one workgroup takes: scales of two fill whole words.
const HEADS: usize = 2;

impl Op for KvPack {
    fn name(&self) -> &'static str {
        "kv_pack"
    }

    fn words(&self) -> Vec<Word> {
        let Packing { bits, group, affine, tile: [rows, each] } = self.packing;
        let [affine, values] = [affine, self.values].map(|flag| Word::U32(flag.into()));
        vec![bits.into(), group.into(), affine, rows.into(), each.into(), values, self.head_dim.into()]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (cache, rows, places) = (&inputs[0], &inputs[1], &inputs[2]);
        let ([t, width], d) = ([rows.dims()[0], rows.dims()[1]], self.head_dim);
        let ([words, codes], [tile, each]) = (self.packing.sizes(width / d, d), self.packing.tile);
        let fits = width % d == 0
            && cache.dims()[1] == words
            && cache.dtype() == Dtype::U32
            && codes.is_multiple_of(each)
            && cache.dims()[0].is_multiple_of(tile)
            && !(self.packing.affine && (d % self.packing.group != 0 || inputs.len() > 4));
        assert!(fits, "{self:?} of {}, {}", cache.spec(), rows.spec());
        let heads = |rows: &MLXArray| rows.reshape(&[t, width / d, d]);
        let rows = match inputs.get(4) {
            _ if self.packing.affine => heads(rows),
            None => &heads(rows) * &signs(d),
            Some(basis) => {
                let centre = || row_of(basis, BasisRow::KeyCentre);
                let rows = if self.values { rows.clone() } else { rows - &centre() };
                heads(&(&rows * &row_of(basis, self.row())))
            }
        };
        let words = pack(self.packing, &rows);
        let cache = apart(self.packing, codes, cache).put(&words, &rows_at(places, &inputs[3]));
        together(self.packing, codes, &cache)
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let (width, d) = (site.inputs[1].axis(1), self.head_dim);
        if d > MAX_HEAD {
            return Vec::new();
        }
        let (heads, tokens) = (width / d, site.inputs[2].dims[0]);
        let (grid, stride) = spread(tokens * heads.div_ceil(HEADS));
        let has_basis = site.inputs.len() > 4;
        let mut stage = Stage {
            name: "kv_pack",
            files: vec![&KV_PACK, &PAGES, &TILED_WORDS, &WALSH, &SIGNS, &PACK],
            constants: vec![
                ("BITS", f64::from(self.packing.bits)),
                ("GROUP", self.packing.group as f64),
                ("AFFINE", f64::from(u8::from(self.packing.affine))),
                ("TILE_ROWS", self.packing.tile[0] as f64),
                ("EACH", self.packing.tile[1] as f64),
                ("BASIS", f64::from(u8::from(has_basis))),
                ("CENTRED", f64::from(u8::from(has_basis && !self.values))),
                ("ROW", f64::from(self.row() as u8)),
            ],
            reads: (1..4).map(Arg::Input).collect(),
            writes: vec![Arg::Output],
            params: vec![
                ("tokens", tokens.into()),
                ("heads", heads.into()),
                ("d", d.into()),
                ("words", site.output.axis(1).into()),
                ("logical", (site.inputs[3].size() * PAGE).into()),
                ("capacity", site.output.axis(2).into()),
                ("stride", stride),
                ("edge", self.packing.edge().into()),
                ("reach", self.packing.reach().into()),
                ("norm", cpu::rotation_norm(1 << d.trailing_zeros()).into()),
            ],
            grid,
            ..Stage::default()
        };
        // Without a basis the rows stand in for it, unread.
        stage.reads.push(Arg::Input(if has_basis { 4 } else { 1 }));
        vec![stage.into()]
    }

    fn cpu(&self, _: &[Spec]) -> Option<CpuKernel> {
        let Self { packing, head_dim, values } = *self;
        let row = self.row();
        Some(Box::new(move |x, mut cache| {
            let (rows, places, table) = (x[0].as_slice(), places(&x[1]), x[2].as_slice());
            let basis = x.get(3).map_or_else(Basis::default, |basis| Basis {
                centres: (!values).then(|| host_row(basis, BasisRow::KeyCentre)),
                factors: Some(host_row(basis, row)),
            });
            cpu::kv_pack(packing, cache.as_mut_slice(), rows, places, table, basis, head_dim);
        }))
    }

    fn in_place(&self) -> Option<usize> {
        Some(0)
    }
}

/// `[x [t, heads, d] f32, basis [5, kv_heads * d] f32 if there is one] -> x` with each head in the basis of a packed
/// cache, `H (x * factor)`, or out of it, `H x * factor`, as [`KvPack`] has them. Neighbouring heads share those of a key
/// head.
#[derive(Clone, Debug)]
pub struct Rotate {
    /// Out of the basis instead of into it.
    pub inverse: bool,
}

/// The same where a CPU kernel reads it.
fn host_row<'a>(basis: &HostRef<'a>, row: BasisRow) -> &'a [f32] {
    let width = basis.spec.axis(1);
    &basis.as_slice()[row as usize * width..][..width]
}

impl Rotate {
    /// The row of factors in a basis.
    fn row(&self) -> BasisRow {
        if self.inverse { BasisRow::Result } else { BasisRow::Query }
    }
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
        let turned = |x: &MLXArray| transformed(&x.reshape(&[t * heads, d])).reshape(&[t, heads, d]);
        let scaled = |x: &MLXArray| match inputs.get(1) {
            None => x * &signs(d),
            Some(basis) => {
                let kv_heads = basis.dims()[1] / d;
                let fits = basis.dims()[1] == kv_heads * d && heads % kv_heads == 0;
                assert!(fits, "{self:?} by {}", basis.spec());
                let factor = row_of(basis, self.row()).reshape(&[1, kv_heads, 1, d]);
                (&x.reshape(&[t, kv_heads, heads / kv_heads, d]) * &factor).reshape(&[t, heads, d])
            }
        };
        if self.inverse { scaled(&turned(&inputs[0])) } else { turned(&scaled(&inputs[0])) }
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        let d = site.output.axis(1);
        if d > MAX_HEAD {
            return Vec::new();
        }
        let (heads, basis) = (site.output.size() / d, site.inputs.get(1));
        let (grid, stride) = spread(heads.div_ceil(HEADS));
        let stage = Stage {
            name: "rotate",
            files: vec![&ROTATE, &WALSH, &SIGNS],
            constants: vec![
                ("INVERSE", f64::from(u8::from(self.inverse))),
                ("BASIS", f64::from(u8::from(basis.is_some()))),
                ("ROW", f64::from(self.row() as u8)),
            ],
            // Without a basis the heads stand in for it, unread.
            reads: vec![Arg::Input(0), Arg::Input(usize::from(basis.is_some()))],
            writes: vec![Arg::Output],
            params: vec![
                ("heads", heads.into()),
                ("own_heads", site.output.axis(2).into()),
                ("kv_heads", basis.map_or(1, |basis| basis.axis(1) / d).into()),
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
        let ([heads, d], inverse) = ([inputs[0].axis(2), inputs[0].axis(1)], self.inverse);
        let row = self.row();
        Some(Box::new(move |x, mut y| {
            let factors = x.get(1).map(|basis| host_row(basis, row));
            cpu::rotate(x[0].as_slice(), [heads, d], factors, inverse, y.as_mut_slice());
        }))
    }
}

/// Sizes worth testing of [`KvPack`].
pub(super) fn cases() -> Vec<Case> {
    let case = |packing: Packing, [heads, d]: [usize; 2], rows: &[u32], basis: bool| {
        let words = packing.row_words(heads, d);
        let mut inputs = vec![
            Fill::Bits(Spec::new(&[2 * PAGE, words], Dtype::U32)),
            Fill::Normal(Spec::new(&[rows.len(), heads * d], Dtype::F32)),
            Fill::U32(
                vec![rows.len(), 2],
                rows.iter().flat_map(|&row| [row % 128, row - row % 128]).collect(),
            ),
            // The second page is past the cache.
            Fill::U32(vec![3], vec![1, 2, 0]),
        ];
        if basis {
            inputs.push(Fill::Normal(Spec::new(&[BASIS_ROWS, heads * d], Dtype::F32)));
        }
        let values = packing.bits == 3;
        Case { op: Arc::new(KvPack { packing, values, head_dim: d }), inputs, reduction: 1 }
    };
    vec![
        case(Packing::rotated(8), [2, 128], &[4], true),
        case(Packing::rotated(4), [3, 64], &[3, 4, 127, 128, 384, 260, 0], true),
        case(Packing::rotated(3), [2, 128], &[1, 3], false),
        case(Packing::rotated(3), [1, 80], &[0], true),
        case(Packing::rotated(5), [3, 96], &[2, 0], false),
        case(Packing::rotated(2), [1, 7], &[2], false),
        case(Packing::rotated(4), [4, 256], &[2, 1], true),
        case(Packing::rotated(8).tiled(false), [2, 128], &[4, 31, 130], true),
        case(Packing::rotated(4).tiled(false), [3, 64], &[5, 0], true),
        case(Packing::rotated(3).tiled(true), [1, 80], &[17], false),
        case(Packing::affine(8, 64), [2, 64], &[4, 257], false),
        case(Packing::affine(4, 32), [3, 32], &[0, 1, 2], false),
    ]
}

/// Sizes worth testing of [`Rotate`].
pub(super) fn rotate_cases() -> Vec<Case> {
    let case = |[t, h, d]: [usize; 3], kv_heads: Option<usize>, inverse| {
        let heads = Fill::Normal(Spec::new(&[t, h, d], Dtype::F32));
        let basis = kv_heads.map(|n| Fill::Normal(Spec::new(&[BASIS_ROWS, n * d], Dtype::F32)));
        Case {
            op: Arc::new(Rotate { inverse }),
            inputs: [heads].into_iter().chain(basis).collect(),
            reduction: d,
        }
    };
    vec![
        case([1, 8, 128], None, false),
        case([3, 3, 64], Some(3), true),
        case([2, 1, 80], None, false),
        case([2, 5, 96], None, true),
        case([3, 6, 96], Some(2), false),
        case([1, 3, 7], None, false),
        case([2, 2, 256], Some(1), true),
    ]
}

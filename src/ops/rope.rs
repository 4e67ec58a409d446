//! Rotary position embedding: pairs of a head's values turn by `position * inv_freq`.

use super::kernel::{must_be, places, spread};
use crate::array::MLXArray;
use crate::cpu;
use crate::dtype::Dtype;
use crate::op::{Arg, Case, CpuKernel, Fill, Kernel, Op, Site, Spec, Stage, Word};
use crate::wgsl::{File, wgsl};
use std::sync::Arc;

static ROPE: File = wgsl!("rope.wgsl");
pub(super) static ANGLE: File = wgsl!("parts/angle.wgsl");

/// `[x [t, h, d] f32, places [t, 2] u32, inv_freq [rotated / 2] f32] -> [t, h, d]`
///
/// `(a, b)` becomes `(a cos - b sin, b cos + a sin)`; values past `rotated` stay as they are. A token's position
/// is the first number of its [place](super::Attention).
#[derive(Clone, Debug)]
pub struct Rope {
    /// How many leading values of a head turn, an even number.
    pub rotated: usize,
    /// Factor of cosine and sine (YaRN's attention factor, else 1).
    pub scale: f32,
    /// Pairs are `(2i, 2i + 1)`; otherwise `(i, i + rotated / 2)`.
    pub interleaved: bool,
}

impl Op for Rope {
    fn name(&self) -> &'static str {
        "rope"
    }

    fn words(&self) -> Vec<Word> {
        vec![self.rotated.into(), self.scale.into(), Word::U32(self.interleaved.into())]
    }

    fn meaning(&self, inputs: &[MLXArray]) -> MLXArray {
        let (x, places, inv_freq) = (&inputs[0], &inputs[1], &inputs[2]);
        let [t, _, d] = *x.dims() else { panic!("rope of {}", x.spec()) };
        let half = self.rotated / 2;
        let fits = self.rotated <= d && places.dims() == [t, 2] && inv_freq.dims() == [half];
        must_be(Dtype::F32, "rope", &[x, inv_freq]);
        must_be(Dtype::U32, "rope", &[places]);
        assert!(fits, "{self:?} of {}, {}, {}", x.spec(), places.spec(), inv_freq.spec());

        let u32 = MLXArray::scalar_u32;
        let i = MLXArray::iota(d);
        let (first, pair, freq) = if self.interleaved {
            let odd = &i & &u32(1);
            let pair = &(&i + &u32(1)) - &(&odd + &odd);
            (odd.equal(&u32(0)), pair, i.shr(&u32(1)))
        } else {
            let h = u32(half as u32);
            let first = i.less(&h);
            (first.clone(), (&i + &h).where_(&first, &(&i - &h)), i.where_(&first, &(&i - &h)))
        };
        let angle = &places.slice(1, 0, 1) * &inv_freq.take(&freq, 0).reshape(&[1, d]);
        let (cos, sin) = (angle.cos() * self.scale, angle.sin() * self.scale);
        let (cos, sin) = (cos.reshape(&[t, 1, d]), sin.reshape(&[t, 1, d]));
        let sin = (-&sin).where_(&first, &sin);
        let turned = &(x * &cos) + &(&x.take(&pair, 2) * &sin);
        turned.where_(&i.less(&u32(self.rotated as u32)), x)
    }

    fn kernels(&self, site: &Site<'_>) -> Vec<Kernel> {
        if self.rotated == 0 {
            return Vec::new();
        }
        let size = site.output.size();
        let (grid, stride) = spread(size.div_ceil(256));
        let stage = Stage {
            name: "rope",
            files: vec![&ROPE, &ANGLE],
            reads: vec![Arg::Input(0), Arg::Input(1), Arg::Input(2)],
            writes: vec![Arg::Output],
            params: vec![
                ("size", size.into()),
                ("heads", site.output.axis(2).into()),
                ("d", site.output.axis(1).into()),
                ("rotated", self.rotated.into()),
                ("interleaved", Word::U32(self.interleaved.into())),
                ("stride", stride),
                ("scale", self.scale.into()),
            ],
            grid,
            ..Stage::default()
        };
        vec![stage.into()]
    }

    fn cpu(&self, inputs: &[Spec]) -> Option<CpuKernel> {
        let (scale, interleaved) = (self.scale, self.interleaved);
        let (heads, d) = (inputs[0].axis(2), inputs[0].axis(1));
        Some(Box::new(move |x, mut y| {
            let (values, places, inv_freq) = (x[0].as_slice(), places(&x[1]), x[2].as_slice());
            cpu::rope(values, places, inv_freq, scale, interleaved, heads, d, y.as_mut_slice());
        }))
    }
}

/// Sizes worth testing.
pub(super) fn cases() -> Vec<Case> {
    let case = |[h, d, rotated]: [usize; 3], positions: &[u32], scale: f32, interleaved: bool| {
        let t = positions.len();
        Case {
            op: Arc::new(Rope { rotated, scale, interleaved }),
            inputs: vec![
                Fill::Normal(Spec::new(&[t, h, d], Dtype::F32)),
                Fill::U32(vec![t, 2], positions.iter().flat_map(|&p| [p, 7]).collect()),
                Fill::Normal(Spec::new(&[rotated / 2], Dtype::F32)),
            ],
            reduction: 1,
        }
    };
    vec![
        case([4, 64, 64], &[17], 1.0, false),
        case([3, 80, 32], &[0, 1, 2, 4095, 131_071], 1.25, false),
        case([2, 128, 128], &[999_999, 5, 4_000_000_000], 1.0, true),
        case([1, 10, 6], &[1, 70_000, 3], 0.5, true),
    ]
}

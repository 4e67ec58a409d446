//! What the tests of ops and of shaders share: adapters as data, and the kernels of a case.

use unimlx::{Caps, Case, Kernel, Site, Spec};

/// Adapters that kernels are chosen for: the least there is, all that ops make use of, and one whose
/// bindings are so small that weights come in chunks.
pub(crate) fn adapters() -> Vec<(&'static str, Caps)> {
    let subgroup = Caps { f16: true, subgroups: Some((8, 64)), ..Caps::BASELINE };
    let small = Caps { max_binding: 256, ..Caps::BASELINE };
    vec![("baseline", Caps::BASELINE), ("subgroup", subgroup), ("small bindings", small)]
}

/// The kernels of a case for an adapter, best first.
pub(crate) fn kernels(case: &Case, output: &Spec, caps: &Caps) -> Vec<Kernel> {
    let inputs: Vec<Spec> = case.inputs.iter().map(|fill| fill.spec()).collect();
    case.op.kernels(&Site { inputs: &inputs, output, caps })
}

//! What the tests of ops and of shaders share: adapters as data.

use unimlx::{Caps, Case, Dtype};

/// Adapters that kernels are chosen for: the least there is, subgroups and halves, one whose bindings are
/// so small that weights come in chunks, and those with cooperative matrices, Apple's with few cores and with many.
pub(crate) fn adapters() -> Vec<(&'static str, Caps)> {
    let subgroup = Caps { f16: true, subgroups: Some((8, 64)), ..Caps::BASELINE };
    let small = Caps { max_binding: 256, ..Caps::BASELINE };
    let coop =
        Caps { workgroup_memory: 32 << 10, workgroup_size: 1024, storage_buffers: 16, ..subgroup.clone() };
    let integer = Caps { dot4: true, ..coop.clone() };
    let coop8 = Caps { coop8: true, ..coop.clone() };
    let large8 = Caps { cores: Some(40), unified: true, ..coop8.clone() };
    let coop16 =
        Caps { coop16: true, dot4: true, subgroups: Some((32, 32)), workgroup_memory: 48 << 10, ..coop };
    let fragments = Caps { fragments: true, ..coop16.clone() };
    vec![
        ("baseline", Caps::BASELINE),
        ("subgroup", subgroup),
        ("integer", integer),
        ("small bindings", small),
        ("coop8", coop8),
        ("coop8, many cores", large8),
        ("coop16", coop16),
        ("fragments", fragments),
    ]
}

/// Whether an adapter may have no kernel for a case: what only rules make exists where it has one.
pub(crate) fn may_have_none(case: &Case, caps: &Caps) -> bool {
    match case.op.name() {
        "attend_packed" => true,
        // Norms, and heads in three arrays, are more buffers than the least adapters bind.
        "attend" => case.inputs.len() >= caps.storage_buffers as usize,
        // A norm of many rows is a kernel of its own where matrix units do not take the weight; a gate is one where bindings
        // do not show all of the weight.
        "linear" => {
            let op = format!("{:?}", case.op);
            let (normed, gated) = (op.contains("norm: Some"), op.contains("gate: Some"));
            let hidden = case.inputs.iter().any(|input| input.spec().bytes() as u64 > caps.max_binding);
            let wide = case.inputs.get(2).is_some_and(|weight| weight.spec().dtype == Dtype::F32);
            let units = caps.f16 && caps.subgroups.is_some() && (caps.coop8 || caps.coop16);
            normed && case.inputs[0].spec().dims[0] > 8 && (wide || !units) || gated && hidden
        }
        _ => false,
    }
}

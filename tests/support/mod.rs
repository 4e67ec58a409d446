//! What the tests of ops and of shaders share: adapters as data.

use unimlx::Caps;

/// Adapters that kernels are chosen for: the least there is, subgroups and halves, one whose bindings are
/// so small that weights come in chunks, and those with cooperative matrices.
pub(crate) fn adapters() -> Vec<(&'static str, Caps)> {
    let subgroup = Caps { f16: true, subgroups: Some((8, 64)), ..Caps::BASELINE };
    let small = Caps { max_binding: 256, ..Caps::BASELINE };
    let coop =
        Caps { workgroup_memory: 32 << 10, workgroup_size: 1024, storage_buffers: 16, ..subgroup.clone() };
    let integer = Caps { dot4: true, ..coop.clone() };
    let coop8 = Caps { coop8: true, ..coop.clone() };
    let coop16 = Caps { coop16: true, subgroups: Some((32, 32)), workgroup_memory: 48 << 10, ..coop };
    vec![
        ("baseline", Caps::BASELINE),
        ("subgroup", subgroup),
        ("integer", integer),
        ("small bindings", small),
        ("coop8", coop8),
        ("coop16", coop16),
    ]
}

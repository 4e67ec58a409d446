//! What the tests of ops and of shaders share: adapters as data.

use unimlx::Caps;

/// Adapters that kernels are chosen for: the least there is, all that ops make use of, and one whose
/// bindings are so small that weights come in chunks.
pub(crate) fn adapters() -> Vec<(&'static str, Caps)> {
    let subgroup = Caps { f16: true, subgroups: Some((8, 64)), ..Caps::BASELINE };
    let small = Caps { max_binding: 256, ..Caps::BASELINE };
    let integer = Caps { dot4: true, workgroup_size: 1024, workgroup_memory: 32 << 10, ..subgroup.clone() };
    vec![
        ("baseline", Caps::BASELINE),
        ("subgroup", subgroup),
        ("integer", integer),
        ("small bindings", small),
    ]
}

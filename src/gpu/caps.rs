//! What an adapter can do, as plain data.
//!
//! A kernel says what it needs, [`Caps`] says what there is. [`Caps::BASELINE`] is what every WebGPU
//! device offers; plans and shader tests use it where no device is at hand.

use std::fmt;

use super::fragments;

/// What a kernel may need beyond the baseline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// WebGPU defaults: every op has a kernel for it.
    Baseline,
    /// Subgroup operations.
    Subgroup,
    /// 16-bit floats in shaders.
    F16,
    /// A packed int8 dot product that the driver may map to hardware.
    Dot4,
    /// 8x8 cooperative matrices (Metal).
    Coop8,
    /// 16x16x16 cooperative matrices, f16 in and f32 out (NVIDIA and others, on Vulkan).
    Coop16,
    /// Products of 16x16 by 8 columns of matrices whose elements stand in registers, f16 in and f32 out (NVIDIA, on Vulkan).
    Fragments,
}

impl Tier {
    /// All of them, the least demanding first.
    pub const ALL: [Tier; 7] =
        [Tier::Baseline, Tier::Subgroup, Tier::F16, Tier::Dot4, Tier::Coop8, Tier::Coop16, Tier::Fragments];

    /// The word for it in `UNIMLX_DISABLE`, `info` and messages.
    pub fn name(self) -> &'static str {
        match self {
            Tier::Baseline => "baseline",
            Tier::Subgroup => "subgroups",
            Tier::F16 => "f16",
            Tier::Dot4 => "dot4",
            Tier::Coop8 => "coop8",
            Tier::Coop16 => "coop16",
            Tier::Fragments => "fragments",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Features and the limits that decide how a kernel is planned. Sizes are in bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Caps {
    /// `f16` in shaders.
    pub f16: bool,
    /// Smallest and largest subgroup a kernel may meet; `None` without subgroup operations.
    pub subgroups: Option<(u32, u32)>,
    /// See [`Tier::Dot4`].
    pub dot4: bool,
    /// See [`Tier::Coop8`].
    pub coop8: bool,
    /// See [`Tier::Coop16`].
    pub coop16: bool,
    /// See [`Tier::Fragments`].
    pub fragments: bool,
    /// Cores that run workgroups of their own, if the adapter's name says how many: multiprocessors, compute units.
    pub cores: Option<u32>,
    /// The CPU maps tensor buffers: nothing is staged.
    pub unified: bool,
    /// Opened without robust buffer access (Vulkan): the driver need not compare indices with bindings.
    pub fast_device: bool,
    /// Kernels can be timed by the GPU.
    pub timestamps: bool,
    /// Largest buffer.
    pub max_buffer: u64,
    /// Largest part of a buffer that one binding shows to a kernel.
    pub max_binding: u64,
    /// Storage buffers that one kernel may bind.
    pub storage_buffers: u32,
    /// `var<workgroup>` memory of one workgroup.
    pub workgroup_memory: u32,
    /// Invocations of one workgroup.
    pub workgroup_size: u32,
    /// Workgroups along one dimension of a grid.
    pub max_grid: u32,
    /// Bindings into the middle of a storage buffer start at multiples of this.
    pub offset_alignment: u32,
}

impl Caps {
    /// The least that a WebGPU device offers.
    pub const BASELINE: Caps = Caps {
        f16: false,
        subgroups: None,
        dot4: false,
        coop8: false,
        coop16: false,
        fragments: false,
        cores: None,
        unified: false,
        fast_device: false,
        timestamps: false,
        max_buffer: 256 << 20,
        max_binding: 128 << 20,
        storage_buffers: 8,
        workgroup_memory: 16 << 10,
        workgroup_size: 256,
        max_grid: 65535,
        offset_alignment: 256,
    };

    /// Whether products of many rows are of halves, by matrix units.
    pub fn has_matrix_units(&self) -> bool {
        self.coop8 || self.coop16
    }

    /// Whether kernels of this tier can run.
    pub fn has(&self, tier: Tier) -> bool {
        match tier {
            Tier::Baseline => true,
            Tier::Subgroup => self.subgroups.is_some(),
            Tier::F16 => self.f16,
            Tier::Dot4 => self.dot4,
            Tier::Coop8 => self.coop8,
            Tier::Coop16 => self.coop16,
            Tier::Fragments => self.fragments,
        }
    }

    /// The tiers that can run, the least demanding first.
    pub fn tiers(&self) -> Vec<Tier> {
        Tier::ALL.into_iter().filter(|tier| self.has(*tier)).collect()
    }

    /// What `device` can do; `coop` are the matrix sizes its adapter listed.
    pub(super) fn of(device: &wgpu::Device, coop: &[wgpu::wgt::CooperativeMatrixProperties]) -> Caps {
        use wgpu::Features;
        use wgpu::wgt::CooperativeScalarType::{F16, F32};
        let (features, limits, info) = (device.features(), device.limits(), device.adapter_info());
        let f16 = features.contains(Features::SHADER_F16);
        let coop = |shape: [u32; 3]| {
            let suits = |p: &wgpu::wgt::CooperativeMatrixProperties| {
                [p.m_size, p.n_size, p.k_size] == shape && p.ab_type == F16 && p.cr_type == F32
            };
            f16 && features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX) && coop.iter().any(suits)
        };
        let subgroups =
            features.contains(Features::SUBGROUP).then_some((info.subgroup_min_size, info.subgroup_max_size));
        Caps {
            f16,
            subgroups,
            dot4: info.backend == wgpu::Backend::Vulkan,
            coop8: coop([8; 3]),
            coop16: coop([16; 3]),
            fragments: coop(fragments::SHAPE)
                && info.backend == wgpu::Backend::Vulkan
                && features.contains(Features::PASSTHROUGH_SHADERS)
                && subgroups == Some((32, 32)),
            cores: super::chips::cores(&info.name),
            unified: features.contains(Features::MAPPABLE_PRIMARY_BUFFERS)
                && matches!(info.device_type, wgpu::DeviceType::IntegratedGpu | wgpu::DeviceType::Cpu),
            fast_device: false,
            timestamps: features
                .contains(Features::TIMESTAMP_QUERY | Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            max_buffer: limits.max_buffer_size,
            max_binding: limits.max_storage_buffer_binding_size.min(limits.max_buffer_size),
            storage_buffers: limits.max_storage_buffers_per_shader_stage,
            workgroup_memory: limits.max_compute_workgroup_storage_size,
            workgroup_size: limits
                .max_compute_invocations_per_workgroup
                .min(limits.max_compute_workgroup_size_x),
            max_grid: limits.max_compute_workgroups_per_dimension,
            offset_alignment: limits.min_storage_buffer_offset_alignment,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn baseline_has_only_the_baseline_tier() {
        assert_eq!(Caps::BASELINE.tiers(), [Tier::Baseline]);
        let more = Caps { f16: true, subgroups: Some((32, 32)), ..Caps::BASELINE };
        assert_eq!(more.tiers(), [Tier::Baseline, Tier::Subgroup, Tier::F16]);
    }
}

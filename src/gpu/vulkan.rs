//! A Vulkan device without robust buffer access.
//!
//! wgpu switches `robustBufferAccess` and `robustBufferAccess2` on wherever a driver has them: the driver
//! then sees to it that no load or store leaves its binding, also in shaders compiled without checks, and
//! may spend instructions on that. Our kernels keep within their bindings and are tested for it, so the
//! device is opened here, with exactly what wgpu would have enabled but those features, and handed to
//! wgpu. Bindings beyond 2 GiB come with it.
//!
//! NVIDIA's driver (580) compares every index with its binding's size all the same, unless the device may
//! choose robustness by pipeline (`VK_EXT_pipeline_robustness`), which is enabled for that alone. On an H200
//! attention over packed keys gains 3 to 6% by it; matrices are as fast either way, within 1%. The caller
//! tries the device before it is used and opens an ordinary one if anything is amiss.

use ash::{ext, vk};
use wgpu::hal::api::Vulkan;

use crate::error::{Error, Result};

/// Opens `adapter` with the features and limits of `descriptor`, as `Adapter::request_device` does,
/// without robust access.
///
/// Bindings may be as large as the driver says: wgpu stops at 2 GiB because of its own bounds checks,
/// which are off.
///
/// # Errors
/// `is_unsupported`: not a Vulkan adapter; `is_device`: the driver or wgpu refused.
pub(super) fn open(
    adapter: &wgpu::Adapter,
    descriptor: &wgpu::DeviceDescriptor<'_>,
) -> Result<(wgpu::Device, wgpu::Queue)> {
    let mut descriptor = descriptor.clone();
    let features = descriptor.required_features;
    if !adapter.features().contains(features) {
        let missing = features.difference(adapter.features());
        return Err(Error::device(format!("the adapter lacks {missing:?}")));
    }
    // SAFETY: the guard only lends the adapter; nothing of it is destroyed.
    let Some(hal) = (unsafe { adapter.as_hal::<Vulkan>() }) else {
        return Err(Error::unsupported("not a Vulkan adapter"));
    };
    let range = u64::from(hal.physical_device_capabilities().properties().limits.max_storage_buffer_range);
    let limits = &mut descriptor.required_limits;
    limits.max_storage_buffer_binding_size =
        limits.max_storage_buffer_binding_size.max(range.min(limits.max_buffer_size) & !3);

    let extensions = hal.required_device_extensions(features);
    let mut names: Vec<_> = extensions.iter().map(|name| name.as_ptr()).collect();
    // No pipeline asks for any: the default is what the device has, none.
    let mut by_pipeline =
        vk::PhysicalDevicePipelineRobustnessFeaturesEXT::default().pipeline_robustness(true);
    let can_tell = hal.physical_device_capabilities().supports_extension(ext::pipeline_robustness::NAME);
    if can_tell {
        names.push(ext::pipeline_robustness::NAME.as_ptr());
    }
    let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
    let mut wanted = hal.physical_device_features(&extensions, features);
    let info = vk::DeviceCreateInfo::default().queue_create_infos(&queues).enabled_extension_names(&names);
    let info = wanted.add_to_device_create(info);
    // SAFETY: `add_to_device_create` has set this to the core features within `wanted`, still borrowed.
    let core = unsafe { *info.p_enabled_features }.robust_buffer_access(false);
    let mut info = info.enabled_features(&core);
    if can_tell {
        info = info.push_next(&mut by_pipeline);
    }
    // SAFETY: the chain consists of the structs within `wanted`, mutably borrowed by `info`.
    unsafe { without_robust_access(info.p_next.cast_mut().cast()) };
    let instance = hal.shared_instance().raw_instance();
    // SAFETY: the physical device is the instance's, which the adapter keeps alive; `info` and what it
    // points to are as wgpu would have passed them, with fewer features.
    let raw = unsafe { instance.create_device(hal.raw_physical_device(), &info, None) }
        .map_err(|e| Error::device(format!("vkCreateDevice: {e}")))?;
    // SAFETY: made from this adapter a moment ago, with the queue family, extensions and features that
    // wgpu requires, but for robust access, which no call needs: shaders that rely on it are not compiled
    // for this device. wgpu owns it from here on.
    let open = unsafe {
        let (limits, hints) = (&descriptor.required_limits, &descriptor.memory_hints);
        hal.device_from_raw(raw, None, &extensions, features, limits, hints, 0, 0)
    }
    .map_err(|e| Error::device(format!("wgpu does not take the device: {e}")))?;
    // SAFETY: the device comes from this very adapter and has the features of the descriptor.
    unsafe { adapter.create_device_from_hal::<Vulkan>(open, &descriptor) }.map_err(Error::device)
}

/// Clears the robustness features in a chain of feature structs.
///
/// # Safety
/// `next` is null or begins a valid chain that may be written.
unsafe fn without_robust_access(mut next: *mut vk::BaseOutStructure<'_>) {
    // SAFETY: by the caller's promise `next` is null or valid.
    while let Some(at) = unsafe { next.as_ref() }.map(|base| (base.s_type, base.p_next)) {
        match at.0 {
            vk::StructureType::PHYSICAL_DEVICE_ROBUSTNESS_2_FEATURES_EXT => {
                // SAFETY: the tag says what the struct is.
                let robustness = unsafe { &mut *next.cast::<vk::PhysicalDeviceRobustness2FeaturesEXT<'_>>() };
                *robustness = robustness.robust_buffer_access2(false).robust_image_access2(false);
            }
            vk::StructureType::PHYSICAL_DEVICE_IMAGE_ROBUSTNESS_FEATURES => {
                // SAFETY: the tag says what the struct is.
                let images = unsafe { &mut *next.cast::<vk::PhysicalDeviceImageRobustnessFeatures<'_>>() };
                *images = images.robust_image_access(false);
            }
            _ => {}
        }
        next = at.1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_robust_access_is_cleared() {
        let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default()
            .robust_buffer_access2(true)
            .robust_image_access2(true)
            .null_descriptor(true);
        let mut images = vk::PhysicalDeviceImageRobustnessFeatures::default().robust_image_access(true);
        let mut dots =
            vk::PhysicalDeviceShaderIntegerDotProductFeatures::default().shader_integer_dot_product(true);
        let info = vk::DeviceCreateInfo::default()
            .push_next(&mut robustness)
            .push_next(&mut dots)
            .push_next(&mut images);
        // SAFETY: the chain was made above and is borrowed mutably by `info`.
        unsafe { without_robust_access(info.p_next.cast_mut().cast()) };
        assert_eq!((robustness.robust_buffer_access2, robustness.robust_image_access2), (0, 0));
        assert_eq!((robustness.null_descriptor, images.robust_image_access), (1, 0));
        assert_eq!(dots.shader_integer_dot_product, 1);
    }
}

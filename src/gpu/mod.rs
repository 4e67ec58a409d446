//! placeholder until the gpu branch lands
mod caps;
mod recording;
pub use caps::{Caps, Tier};
pub(crate) use recording::*;
pub(crate) struct Counters;
impl Counters {
    pub(crate) fn allocated(&self, _n: u64) {}
    pub(crate) fn freed(&self, _n: u64) {}
}
pub(crate) fn counters() -> &'static Counters {
    &Counters
}
#[derive(Clone)]
pub(crate) struct Buffer;
impl Buffer {
    pub(crate) fn read(&self, _o: u64, _b: &mut [u8]) -> crate::Result<()> {
        Ok(())
    }
    pub(crate) fn write(&self, _o: u64, _b: &[u8]) -> crate::Result<()> {
        Ok(())
    }
    pub(crate) fn bytes(&self) -> u64 {
        0
    }
}
#[derive(Debug)]
pub struct Gpu;
impl Gpu {
    pub(crate) fn shared() -> crate::Result<std::sync::Arc<Gpu>> {
        Err(crate::Error::device("none"))
    }
    pub(crate) fn alloc(&self, _n: u64) -> crate::Result<Buffer> {
        Ok(Buffer)
    }
    pub(crate) fn alloc_zeroed(&self, _n: u64) -> crate::Result<Buffer> {
        Ok(Buffer)
    }
}

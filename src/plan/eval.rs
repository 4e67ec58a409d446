//! `eval()` and everything that looks at elements.

use crate::array::{Device, MLXArray, check_len};
use crate::dtype::Dtype;
use crate::error::{Error, Result};
use crate::gpu::Gpu;
use crate::layout::ArrayShape;
use crate::memory::Buffer;
use crate::op::Spec;
use crate::reference::Values;
use ndarray::{Array1, Array2};

impl Device {
    /// Where models run best: the GPU, but the CPU where there is none or only a software adapter, which is
    /// slower than native kernels.
    pub fn best() -> Self {
        match Gpu::shared() {
            Ok(gpu) if !gpu.is_software() => Self::GPU,
            _ => Self::CPU,
        }
    }

    /// This device, or the CPU where there is no GPU; the first fallback is logged as a warning.
    pub fn or_fallback(self) -> Self {
        static WARNED: std::sync::Once = std::sync::Once::new();
        if self == Self::GPU
            && let Err(e) = Gpu::shared()
        {
            WARNED.call_once(|| log::warn!("no GPU, computing on the CPU: {e}"));
            return Self::CPU;
        }
        self
    }
}

impl MLXArray {
    /// An f32 array on the CPU.
    ///
    /// # Panics
    /// If the data does not fill the shape; [`MLXArray::try_new_cpu`] does not.
    #[track_caller]
    pub fn new_cpu(data: Vec<f32>, shape: ArrayShape) -> Self {
        Self::try_new_cpu(data, shape).unwrap_or_else(|e| panic!("{e}"))
    }

    /// An f32 array on the CPU.
    ///
    /// # Errors
    /// Data that does not fill the shape.
    pub fn try_new_cpu(data: Vec<f32>, shape: ArrayShape) -> Result<Self> {
        check_len(data.len(), &shape.dims())?;
        Ok(Self::from_buffer(Spec::new(&shape.dims(), Dtype::F32), Buffer::from_f32(data)))
    }

    /// An f32 array on the GPU, or on the CPU where there is none.
    ///
    /// # Panics
    /// If the data does not fill the shape or the GPU fails; [`MLXArray::try_new_gpu`] does not.
    #[track_caller]
    pub fn new_gpu(data: Vec<f32>, shape: ArrayShape) -> Self {
        Self::new_cpu(data, shape).to_device(Device::GPU)
    }

    /// An f32 array on the GPU.
    ///
    /// # Errors
    /// Data that does not fill the shape, no adapter, memory exhausted.
    pub fn try_new_gpu(data: Vec<f32>, shape: ArrayShape) -> Result<Self> {
        Self::try_new_cpu(data, shape)?.try_to_device(Device::GPU)
    }

    /// An array of any dtype from packed little-endian elements.
    ///
    /// # Errors
    /// A length that is not `dims` times the dtype's size; no adapter; memory exhausted.
    pub fn from_bytes(bytes: &[u8], dims: &[usize], dtype: Dtype, device: Device) -> Result<Self> {
        check_len(bytes.len() / dtype.size(), dims)?;
        if !bytes.len().is_multiple_of(dtype.size()) {
            return Err(Error::input(format!("{} bytes are not whole {dtype} elements", bytes.len())));
        }
        Ok(Self::from_buffer(Spec::new(dims, dtype), Buffer::from_bytes(bytes, device)?))
    }

    /// A u32 array on the CPU.
    ///
    /// # Errors
    /// Data that does not fill the shape.
    pub fn from_u32(data: &[u32], dims: &[usize]) -> Result<Self> {
        Self::from_bytes(bytemuck::cast_slice(data), dims, Dtype::U32, Device::CPU)
    }

    /// A copy of a vector on a device (on the CPU where there is no GPU).
    pub fn from_array1(array: &Array1<f32>, device: Device) -> Self {
        Self::new_cpu(array.iter().copied().collect(), ArrayShape::Shape1D(array.len())).to_device(device)
    }

    /// A copy of a matrix, whatever its memory order, on a device (on the CPU where there is no GPU).
    pub fn from_array2(array: &Array2<f32>, device: Device) -> Self {
        let shape = ArrayShape::Shape2D(array.nrows(), array.ncols());
        Self::new_cpu(array.iter().copied().collect(), shape).to_device(device)
    }

    /// The same elements on another device; on the CPU where there is no GPU. One copy, none if already there.
    ///
    /// # Panics
    /// If evaluation or the transfer fails; [`MLXArray::try_to_device`] does not.
    #[track_caller]
    pub fn to_device(&self, device: Device) -> Self {
        self.try_to_device(device.or_fallback()).unwrap_or_else(|e| panic!("{e}"))
    }

    /// The same elements on another device: one copy, none if already there.
    ///
    /// # Errors
    /// No adapter, evaluation or transfer failed.
    pub fn try_to_device(&self, device: Device) -> Result<Self> {
        if self.device() == device {
            return Ok(self.clone());
        }
        let buffer = self.evaluated()?.moved(self.nbytes(), device)?;
        Ok(Self::from_buffer(self.spec().clone(), buffer))
    }

    /// The elements in row-major order, widened to f32.
    ///
    /// # Panics
    /// If evaluation fails; [`MLXArray::try_data`] does not.
    #[track_caller]
    pub fn data(&self) -> Vec<f32> {
        self.try_data().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The elements in row-major order, widened to f32.
    ///
    /// # Errors
    /// Evaluation or the transfer failed.
    pub fn try_data(&self) -> Result<Vec<f32>> {
        let buffer = self.evaluated()?;
        if self.dtype() == Dtype::F32 {
            let mut data = vec![0f32; self.size()];
            buffer.read(bytemuck::cast_slice_mut(&mut data))?;
            return Ok(data);
        }
        Ok(match self.values(&buffer)? {
            Values::F(v) => v,
            Values::U(v) if self.dtype() == Dtype::I32 => v.iter().map(|&x| x as i32 as f32).collect(),
            Values::U(v) => v.iter().map(|&x| x as f32).collect(),
        })
    }

    /// The elements of an integer array in row-major order.
    ///
    /// # Errors
    /// A float array; evaluation or the transfer failed.
    pub fn try_data_u32(&self) -> Result<Vec<u32>> {
        match self.values(&self.evaluated()?)? {
            Values::U(v) => Ok(v),
            Values::F(_) => Err(Error::input(format!("{} read as u32", self.spec()))),
        }
    }

    fn values(&self, buffer: &Buffer) -> Result<Values> {
        let mut bytes = vec![0; self.nbytes()];
        buffer.read(&mut bytes)?;
        Ok(Values::from_bytes(&bytes, self.dtype()))
    }

    /// The elements as an ndarray vector.
    ///
    /// # Errors
    /// More than one axis; evaluation or the transfer failed.
    pub fn to_array1(&self) -> Result<Array1<f32>> {
        match self.dims() {
            [_] | [] => Ok(Array1::from_vec(self.try_data()?)),
            dims => Err(Error::input(format!("to_array1 of an array of shape {dims:?}"))),
        }
    }

    /// The elements as an ndarray matrix.
    ///
    /// # Errors
    /// Not two axes; evaluation or the transfer failed.
    pub fn to_array2(&self) -> Result<Array2<f32>> {
        match *self.dims() {
            [rows, columns] => Array2::from_shape_vec((rows, columns), self.try_data()?)
                .map_err(|e| Error::input(format!("to_array2: {e}"))),
            _ => Err(Error::input(format!("to_array2 of an array of shape {:?}", self.dims()))),
        }
    }

    /// The GPU work that evaluating this array takes, one line per step; empty on the CPU. Nothing runs.
    ///
    /// # Errors
    /// No adapter, memory exhausted, a kernel the driver refuses.
    pub fn recording(&self) -> Result<String> {
        Ok(super::Program::new(std::slice::from_ref(self))?.recording())
    }

    /// Computes the elements now, if they do not exist yet.
    ///
    /// # Panics
    /// If evaluation fails; [`MLXArray::try_eval`] does not.
    #[track_caller]
    pub fn eval(&self) {
        self.try_eval().unwrap_or_else(|e| panic!("{e}"));
    }

    /// Computes the elements now, if they do not exist yet.
    ///
    /// # Errors
    /// The device failed or ran out of memory.
    pub fn try_eval(&self) -> Result<()> {
        self.evaluated().map(|_| ())
    }

    pub(crate) fn evaluated(&self) -> Result<Buffer> {
        if self.buffer().is_none() {
            super::eval(&[self])?;
        }
        self.buffer().ok_or_else(|| Error::device(format!("{self:?} has no buffer after evaluation")))
    }
}

//! From a checkpoint to tensors on a device.

use std::borrow::Cow;

use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use codeseal_kernels::cpu::{Format, Source, quantize_q4k};
use codeseal_kernels::cuda::quantize_q8_0;

use super::linear::Matrix;
use super::place::Place;
use crate::model::gemma::checkpoint::Checkpoint;
use crate::model::gemma::weights::Weights;
use crate::model::{ModelError, Quantize};

/// A matrix that is being filled.
enum Staged {
    /// On the device, in the type that it multiplies.
    Dense(Tensor),
    /// Blocks in the host's memory until all are there: candle moves a quantized matrix as a whole.
    Blocks { dtype: GgmlDType, bytes: Vec<u8>, shape: [usize; 2], missing: usize },
    /// Complete.
    Done(Matrix),
}

/// In which blocks a matrix of `format` with rows of `columns` numbers is kept, which are single numbers for f32 on the CPU;
/// none for dense ones. Rows that are not whole blocks are not quantized, or as q8_0 in place of q4k.
fn blocks(place: &Place, format: Format, columns: usize) -> Option<GgmlDType> {
    let wanted = match format {
        Format::Q4K => [GgmlDType::Q4K, GgmlDType::Q8_0].as_slice(),
        Format::Q8_0 => &[GgmlDType::Q8_0],
        Format::F32 | Format::Bf16 => &[],
    };
    let f32 = (place.device().is_cpu() && place.dense() == DType::F32).then_some(GgmlDType::F32);
    wanted.iter().copied().find(|dtype| columns.is_multiple_of(dtype.block_size())).or(f32)
}

/// The size of a matrix in memory, in bytes. On the CPU candle arranges quantized weights for its kernels once more: q8_0
/// in as many bytes, q4k with f32 scales and, for long prompts on CPUs with AMX, in 8 bits.
pub(super) fn bytes_of(place: &Place, format: Format, rows: usize, columns: usize) -> usize {
    let count = rows * columns;
    let Some(dtype) = blocks(place, format, columns) else {
        return count * place.dense().size_in_bytes();
    };
    let stored = count / dtype.block_size() * dtype.type_size();
    match dtype {
        dtype if dtype == GgmlDType::F32 || !place.device().is_cpu() => stored,
        // Of 256 weights of 16 rows: 64 bytes of scales and minima, and 4 or 8 bits a weight.
        GgmlDType::Q4K => stored + count / 256 * (64 + 128 + 64 + 256),
        _ => 2 * stored,
    }
}

/// Loads the weights of `checkpoint`. `progress` gets the bytes read and all bytes.
///
/// # Errors
/// A file cannot be read, or the device has too little memory.
pub(super) fn load(
    checkpoint: &mut Checkpoint,
    quantize: Quantize,
    place: &Place,
    progress: impl FnMut(u64, u64),
) -> Result<Weights<Matrix, Tensor>, ModelError> {
    let allocate = |format, rows, columns| Staged::new(place, format, [rows, columns]);
    let mut staged =
        Weights::load(checkpoint, quantize, allocate, progress, |matrix, first, source, bytes| {
            matrix.fill(place, first, source, bytes).map_err(|error| place.error(&error))
        })?;
    if !checkpoint.norms_include_one() {
        staged.norms_mut().flatten().for_each(|scale| *scale += 1.0);
    }
    let vector = |numbers: Vec<f32>| Tensor::new(numbers.as_slice(), place.device());
    staged.map(Staged::finish, vector).map_err(|error| place.error(&error))
}

impl Staged {
    fn new(place: &Place, format: Format, shape: [usize; 2]) -> Result<Self, ModelError> {
        let [rows, columns] = shape;
        Ok(match blocks(place, format, columns) {
            Some(dtype) => {
                let bytes = vec![0; rows * columns / dtype.block_size() * dtype.type_size()];
                Self::Blocks { dtype, bytes, shape, missing: rows }
            }
            None => Self::Dense(
                Tensor::zeros((rows, columns), place.dense(), place.device())
                    .map_err(|error| place.error(&error))?,
            ),
        })
    }

    /// Overwrites whole rows from `first` on with `bytes`, which are numbers of `source`.
    fn fill(&mut self, place: &Place, first: usize, source: Source, bytes: &[u8]) -> candle_core::Result<()> {
        match self {
            Self::Dense(matrix) => {
                let columns = matrix.dim(1)?;
                let rows = if (source, matrix.dtype()) == (Source::Bf16, DType::BF16) {
                    Tensor::from_raw_buffer(
                        bytes,
                        DType::BF16,
                        &[bytes.len() / 2 / columns, columns],
                        place.device(),
                    )?
                } else {
                    let numbers = source.to_f32(bytes);
                    let rows = Tensor::from_vec(numbers, ((), columns), &Device::Cpu)?;
                    rows.to_dtype(matrix.dtype())?.to_device(place.device())?
                };
                matrix.slice_set(&rows, 0, first)?;
            }
            Self::Blocks { dtype, bytes: all, shape: [rows, columns], missing } => {
                let blocks = match (source, *dtype) {
                    (Source::Q4K, GgmlDType::Q4K) => Cow::Borrowed(bytes),
                    (_, GgmlDType::Q4K) => Cow::Owned(quantize_q4k(&source.to_f32(bytes))),
                    (_, GgmlDType::F32) => {
                        Cow::Owned(source.to_f32(bytes).into_iter().flat_map(f32::to_ne_bytes).collect())
                    }
                    _ => source
                        .as_q8_0(bytes)
                        .unwrap_or_else(|| Cow::Owned(quantize_q8_0(&source.to_f32(bytes)))),
                };
                let width = *columns / dtype.block_size() * dtype.type_size();
                let room = all.get_mut(first * width..first * width + blocks.len());
                room.ok_or_else(|| candle_core::Error::msg("more rows than the matrix has"))?
                    .copy_from_slice(&blocks);
                *missing = missing.saturating_sub(blocks.len() / width.max(1));
                if *missing == 0 {
                    let storage = QStorage::from_data(Cow::Borrowed(all), place.device(), *dtype)?;
                    let weight = QTensor::new(storage, (*rows, *columns))?;
                    let matrix = if *dtype == GgmlDType::F32 { Matrix::F32 } else { Matrix::Quantized };
                    *self = Self::Done(matrix(weight));
                }
            }
            Self::Done(_) => candle_core::bail!("more rows than the matrix has"),
        }
        Ok(())
    }

    fn finish(self) -> candle_core::Result<Matrix> {
        match self {
            Self::Dense(matrix) => Ok(Matrix::Dense(matrix)),
            Self::Done(matrix) => Ok(matrix),
            Self::Blocks { .. } => candle_core::bail!("rows of a matrix are missing"),
        }
    }
}

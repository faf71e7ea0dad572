//! A matrix of weights in each of its types, and products with it.

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{D, DType, Device, Result, Tensor};

/// A matrix `[outputs, inputs]`.
// With CUDA a quantized tensor is larger than a reference; there are few matrices.
#[allow(clippy::large_enum_variant)]
pub(super) enum Matrix {
    /// bf16 or f16.
    Dense(Tensor),
    /// f32 on the CPU, in the form in which candle multiplies it with single rows as fast as it is read from memory.
    F32(QTensor),
    /// Blocks of ggml's q8_0 or Q4_K.
    Quantized(QTensor),
}

impl Matrix {
    /// `x Wᵀ + bias`: `[rows, inputs]` to `[rows, outputs]`, both f32, for rows of these kinds.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn forward(&self, x: &Tensor, kinds: &Kinds, bias: Option<&Tensor>) -> Result<Tensor> {
        let product = match self {
            Self::F32(weight) => kinds.each(
                x,
                // gemm is fast for many rows. It takes a tensor, so the weights are copied for each product.
                |prompts| multiply(prompts, &weight.dequantize(prompts.device())?.t()?),
                // A dot product for each weight row, row by row.
                |decode| decode.contiguous()?.apply_op1_no_bwd(weight),
            )?,
            // candle quantizes each row of `x` to 8 bits on the CPU and sums integers, row by row.
            Self::Quantized(weight) => x.contiguous()?.apply_op1_no_bwd(weight)?,
            Self::Dense(weight) if weight.dtype() == DType::F16 => {
                // f16 overflows above 65504, so each row is divided by its largest number first.
                let largest = x.abs()?.max_keepdim(D::Minus1)?.clamp(f32::MIN_POSITIVE, f32::MAX)?;
                let x = x.broadcast_div(&largest)?.to_dtype(DType::F16)?;
                multiply(&x, &weight.t()?)?.to_dtype(DType::F32)?.broadcast_mul(&largest)?
            }
            Self::Dense(weight) => {
                multiply(&x.to_dtype(weight.dtype())?, &weight.t()?)?.to_dtype(DType::F32)?
            }
        };
        match bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }

    /// The rows with these numbers, `[numbers, inputs]` in f32.
    ///
    /// # Errors
    /// There is no such row, or the device failed.
    pub(super) fn rows(&self, numbers: &Tensor) -> Result<Tensor> {
        match self {
            Self::Dense(rows) => rows.index_select(numbers, 0)?.to_dtype(DType::F32),
            Self::F32(rows) | Self::Quantized(rows) => rows.embedding(numbers),
        }
    }

    /// Bytes that a product reads.
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Dense(weight) => weight.elem_count() * weight.dtype().size_in_bytes(),
            Self::F32(weight) | Self::Quantized(weight) => weight.storage_size_in_bytes(),
        }
    }

    /// The type of its numbers, as on the command line.
    pub(super) fn weights_type(&self) -> &'static str {
        match self {
            Self::Dense(weight) => weight.dtype().as_str(),
            Self::F32(_) => "f32",
            Self::Quantized(weight) if weight.dtype() == GgmlDType::Q4K => "q4k",
            Self::Quantized(_) => "q8_0",
        }
    }
}

/// The kinds of a step's rows. Products of f32 on the CPU have two orders of summation, one that is fast for many rows and
/// one that is fast for a few: where a row stands in its request decides which one it takes, not what else is in the step.
pub(super) enum Kinds {
    /// All rows are of prompts.
    Prompts,
    /// All rows are behind prompts: generated, or draft tokens.
    Decode,
    /// Both.
    Mixed {
        /// The numbers of the rows of prompts.
        prompts: Tensor,
        /// Those of the other rows.
        decode: Tensor,
        /// For each row its place when both follow each other.
        places: Tensor,
    },
}

impl Kinds {
    /// The kinds of rows, of which these are of prompts. Only products on the CPU look at them.
    ///
    /// # Errors
    /// The device failed.
    pub(super) fn new(of_prompt: &[bool], device: &Device) -> Result<Self> {
        let numbers = |wanted: bool| {
            let rows = (0u32..).zip(of_prompt).filter(move |&(_, &of_prompt)| of_prompt == wanted);
            rows.map(|(number, _)| number).collect::<Vec<_>>()
        };
        let (prompts, decode) = (numbers(true), numbers(false));
        if decode.is_empty() || !device.is_cpu() {
            return Ok(Self::Prompts);
        }
        if prompts.is_empty() {
            return Ok(Self::Decode);
        }
        let mut places = vec![0; of_prompt.len()];
        for (place, number) in (0u32..).zip(prompts.iter().chain(&decode)) {
            if let Some(to) = places.get_mut(*number as usize) {
                *to = place;
            }
        }
        let tensor = |numbers: Vec<u32>| Tensor::new(numbers.as_slice(), device);
        Ok(Self::Mixed { prompts: tensor(prompts)?, decode: tensor(decode)?, places: tensor(places)? })
    }

    /// What `prompts` and `decode` make of their rows of `x`, in the order of `x`.
    fn each(
        &self,
        x: &Tensor,
        prompts: impl Fn(&Tensor) -> Result<Tensor>,
        decode: impl Fn(&Tensor) -> Result<Tensor>,
    ) -> Result<Tensor> {
        match self {
            Self::Prompts => prompts(x),
            Self::Decode => decode(x),
            Self::Mixed { prompts: first, decode: last, places } => {
                let both = [prompts(&x.index_select(first, 0)?)?, decode(&x.index_select(last, 0)?)?];
                Tensor::cat(&both, 0)?.index_select(places, 0)
            }
        }
    }
}

/// `x y`: `[.., rows, inputs]` times `[.., inputs, outputs]`. On the CPU a row of the result is bitwise the same for any number
/// of rows.
///
/// The crate gemm multiplies single rows, and small results, by other kernels than larger ones, with another order of
/// summation. Rows of zeros take `x` beyond these cases. From there on only the number of inputs decides that order.
///
/// # Errors
/// The shapes do not fit, or the device failed.
pub(super) fn multiply(x: &Tensor, y: &Tensor) -> Result<Tensor> {
    let (rows, least) = (x.dim(D::Minus2)?, least_rows(y.dim(D::Minus1)?));
    if rows >= least || !x.device().is_cpu() {
        return x.contiguous()?.matmul(y);
    }
    x.pad_with_zeros(D::Minus2, 0, least - rows)?.matmul(y)?.narrow(D::Minus2, 0, rows)?.contiguous()
}

/// From how many rows on gemm 0.19 multiplies by its general kernel: never for one row, nor for results of up to 256
/// numbers. With up to 64 rows and outputs it also cuts the inputs into other pieces.
fn least_rows(outputs: usize) -> usize {
    let least = 256 / outputs.max(1) + 1;
    least.max(if outputs <= 64 { 65 } else { 2 })
}

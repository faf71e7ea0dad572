//! Rounds weights to a smaller type and back: what that type costs in quality, measured without its kernels.
//!
//! Must not touch: where the weights come from.

use std::fmt;
use std::str::FromStr;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{DType, Device, Result, Tensor};

/// The type that weights are rounded to when they are loaded. The model computes in f32 all the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Rounding {
    /// The weights stay as they are.
    #[default]
    None,
    /// Every tensor goes through bf16.
    Bf16,
    /// Matrices go through blocks of 32 numbers of 8 bits with one scale.
    Q8_0,
    /// Matrices go through blocks of 256 numbers of 4 bits with scales and minima.
    Q4K,
}

/// No type of weights has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such type of weights: use none, bf16, q8_0 or q4k")]
pub struct UnknownRounding;

/// Rounds tensors one after the other, and counts what it must leave as it is.
pub(super) struct Rounder {
    rounding: Rounding,
    kept_rows: usize,
}

impl Rounding {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::None, Self::Bf16, Self::Q8_0, Self::Q4K];

    /// The name that flags and reports use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Bf16 => "bf16",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
        }
    }
}

impl fmt::Display for Rounding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Rounding {
    type Err = UnknownRounding;

    fn from_str(name: &str) -> std::result::Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|rounding| rounding.as_str() == name).ok_or(UnknownRounding)
    }
}

impl Rounder {
    pub(super) fn new(rounding: Rounding) -> Self {
        Self { rounding, kept_rows: 0 }
    }

    /// Whether numbers change at all.
    pub(super) fn rounds(&self) -> bool {
        self.rounding != Rounding::None
    }

    /// Some rows of a matrix of so many `columns`, or a piece of a vector, as the smaller type would have held them.
    pub(super) fn round_rows(&mut self, columns: Option<usize>, numbers: Vec<f32>) -> Result<Vec<f32>> {
        let count = numbers.len();
        let tensor = match columns {
            Some(columns) => Tensor::from_vec(numbers, (count / columns, columns), &Device::Cpu)?,
            None => Tensor::from_vec(numbers, count, &Device::Cpu)?,
        };
        self.round(tensor)?.flatten_all()?.to_vec1()
    }

    /// How many rows of matrices stayed as they were, because blocks do not fit into them.
    pub(super) fn kept_rows(&self) -> usize {
        self.kept_rows
    }

    /// An f32 tensor with the numbers of `tensor` as the smaller type would have held them.
    fn round(&mut self, tensor: Tensor) -> Result<Tensor> {
        match self.rounding {
            Rounding::None => Ok(tensor),
            Rounding::Bf16 => tensor.to_dtype(DType::BF16)?.to_dtype(DType::F32),
            Rounding::Q8_0 => self.through_blocks(tensor, GgmlDType::Q8_0),
            Rounding::Q4K => self.through_blocks(tensor, GgmlDType::Q4K),
        }
    }

    /// Vectors are left alone, as in every quantised file: they are few, and all of a layer hangs on each.
    fn through_blocks(&mut self, tensor: Tensor, block: GgmlDType) -> Result<Tensor> {
        let &[rows, columns] = tensor.dims() else { return Ok(tensor) };
        if !columns.is_multiple_of(block.block_size()) {
            self.kept_rows += rows;
            return Ok(tensor);
        }
        QTensor::quantize(&tensor, block)?.dequantize(&Device::Cpu)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Model, ModelFiles};
    use crate::tokenizer::TokenId;

    /// Numbers without a pattern, the largest about 1.
    fn matrix(rows: usize, columns: usize) -> Tensor {
        let numbers: Vec<f32> = (0..rows * columns).map(|i| (i as f32 * 1.7).sin()).collect();
        Tensor::from_vec(numbers, (rows, columns), &Device::Cpu).unwrap()
    }

    fn largest_error(rounding: Rounding, tensor: &Tensor) -> (f32, usize) {
        let mut rounder = Rounder::new(rounding);
        let rounded = rounder.round(tensor.clone()).unwrap();
        assert_eq!((rounded.dims(), rounded.dtype()), (tensor.dims(), DType::F32));
        let error = (rounded - tensor).unwrap().abs().unwrap().flatten_all().unwrap().max(0).unwrap();
        (error.to_scalar().unwrap(), rounder.kept_rows())
    }

    fn logits(rounding: Rounding) -> Vec<f32> {
        let model = Model::rounded(&ModelFiles::tiny(), "tiny", rounding, |_, _| {}).unwrap();
        model.sequence().forward(&[2, 70, 90, 80].map(TokenId)).unwrap()
    }

    #[test]
    fn smaller_types_round_more() {
        let tensor = matrix(3, 512);
        assert_eq!(largest_error(Rounding::None, &tensor), (0.0, 0));
        for (rounding, least, most) in
            [(Rounding::Bf16, 1e-4, 0.002), (Rounding::Q8_0, 0.001, 0.005), (Rounding::Q4K, 0.02, 0.08)]
        {
            let (error, kept) = largest_error(rounding, &tensor);
            assert!((least..most).contains(&error), "{rounding}: {error}");
            assert_eq!(kept, 0);
        }
    }

    #[test]
    fn rows_that_blocks_do_not_fit_into_are_kept_and_counted() {
        assert_eq!(largest_error(Rounding::Q8_0, &matrix(5, 48)), (0.0, 5));
        assert_eq!(largest_error(Rounding::Q4K, &matrix(5, 384)), (0.0, 5));
        let vector = matrix(1, 256).flatten_all().unwrap();
        assert_eq!(largest_error(Rounding::Q4K, &vector), (0.0, 0));
    }

    #[test]
    fn a_model_is_rounded_as_a_whole() {
        let (exact, bf16) = (logits(Rounding::None), logits(Rounding::Bf16));
        // Its file is in bf16 already: all that differs is that activations are not rounded where weights are f32.
        let largest = exact.iter().fold(0.0f32, |largest, logit| largest.max(logit.abs()));
        assert!(exact.iter().zip(&bf16).all(|(a, b)| (a - b).abs() < 0.02 * largest));
        assert_ne!(logits(Rounding::Q8_0), bf16);
        assert_ne!(logits(Rounding::Q4K), logits(Rounding::Q8_0));
    }

    #[test]
    fn names_are_read_as_they_are_written() {
        for rounding in Rounding::ALL {
            assert_eq!(rounding.to_string().parse(), Ok(rounding));
        }
        assert_eq!("q4_0".parse::<Rounding>(), Err(UnknownRounding));
    }
}

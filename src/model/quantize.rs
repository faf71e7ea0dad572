//! Quantization at load time.

use std::str::FromStr;

use codeseal_kernels::cpu::{Format, Source};

/// The type that matrices are quantized to while they are loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Quantize {
    /// None: weights keep the type of the file, except f16, which becomes f32.
    #[default]
    None,
    /// Eight bits per weight and an f16 scale per 32 weights, the embedding included.
    Q8_0,
    /// Four bits per weight, and a scale and a minimum per 32 weights, the embedding included. A matrix whose row length is
    /// not a multiple of 256 is quantized to [`Quantize::Q8_0`].
    Q4K,
}

/// The name is not one of a quantization.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weights are quantized as none, q8_0 or q4k")]
pub struct UnknownQuantization;

impl Quantize {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Q8_0 => "q8_0",
            Self::Q4K => "q4k",
        }
    }

    /// The type in memory of a matrix whose tensors have the types `sources` in the file. Without quantization it is theirs if
    /// there is a kernel for it and all have the same. Other quantized types, or several, become q8_0: without loss where
    /// [`Source::as_q8_0`] says so. All else becomes f32.
    pub(super) fn format(self, sources: impl Iterator<Item = Source>) -> Format {
        let sources: Vec<_> = match self {
            Self::Q8_0 => return Format::Q8_0,
            Self::Q4K => return Format::Q4K,
            Self::None => sources.collect(),
        };
        let all = |source: Source| sources.iter().all(|other| *other == source);
        if all(Source::Bf16) {
            Format::Bf16
        } else if all(Source::Q4K) {
            Format::Q4K
        } else if sources.iter().all(|source| source.is_quantized()) {
            Format::Q8_0
        } else {
            Format::F32
        }
    }
}

impl FromStr for Quantize {
    type Err = UnknownQuantization;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "none" => Ok(Self::None),
            "q8_0" => Ok(Self::Q8_0),
            "q4k" => Ok(Self::Q4K),
            _ => Err(UnknownQuantization),
        }
    }
}

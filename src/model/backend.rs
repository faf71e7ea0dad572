//! The implementations of the forward pass.

use std::str::FromStr;

/// The implementation to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BackendChoice {
    /// The kernels of this program. On a CUDA device they must first agree with candle; if not, candle.
    #[default]
    Auto,
    /// The kernels of this program.
    Kernels,
    /// candle.
    Candle,
}

/// An implementation of the forward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// The kernels of this program.
    Kernels,
    /// candle.
    Candle,
}

/// Why a name stands for no backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BackendNameError {
    /// It is not one of a backend.
    #[error("a backend is auto, kernels or candle")]
    Name,
    /// The feature `candle` is off.
    #[error("this program was built without candle: build it with `--features candle`")]
    NotBuilt,
}

impl BackendKind {
    /// Its name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernels => "kernels",
            Self::Candle => "candle",
        }
    }
}

impl FromStr for BackendChoice {
    type Err = BackendNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "auto" => Ok(Self::Auto),
            "kernels" => Ok(Self::Kernels),
            "candle" if cfg!(feature = "candle") => Ok(Self::Candle),
            "candle" => Err(BackendNameError::NotBuilt),
            _ => Err(BackendNameError::Name),
        }
    }
}

//! The types that activations are handed on in, and which kernels make them.
//!
//! Sums, norms and the residual stream are always f32. What is multiplied next may be narrower: tensor cores want it.
//! Must not touch: launches.

use half::{bf16, f16};

use super::memory::Element;

/// A type that a kernel can write its results in.
pub trait Activation: Element {
    /// The kernel of [`super::add_rms_norm`].
    const ADD_RMS_NORM: &str;
    /// The second kernel of [`super::attend_decode`].
    const COMBINE: &str;
    /// The kernel of [`super::geglu`].
    const GEGLU: &str;
}

impl Activation for f32 {
    const ADD_RMS_NORM: &str = "add_rms_norm_f32";
    const COMBINE: &str = "combine_f32";
    const GEGLU: &str = "geglu_f32";
}

impl Activation for bf16 {
    const ADD_RMS_NORM: &str = "add_rms_norm_bf16";
    const COMBINE: &str = "combine_bf16";
    const GEGLU: &str = "geglu_bf16";
}

/// What is too large becomes the largest number.
impl Activation for f16 {
    const ADD_RMS_NORM: &str = "add_rms_norm_f16";
    const COMBINE: &str = "combine_f16";
    const GEGLU: &str = "geglu_f16";
}

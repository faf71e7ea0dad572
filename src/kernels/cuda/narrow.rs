//! The two types of sixteen bits that tensor cores multiply, and the kernels for each.
//!
//! Keys, values and what is multiplied with weights are kept in one of them. Sums, norms and the residual stream are always
//! f32. Must not touch: launches.

use half::{bf16, f16};

use super::memory::Element;

/// Kernels by the type of weights: as they are, q8_0, q4k.
pub(super) type ByWeights<K> = [K; 3];

/// A type of sixteen bits, and its kernels.
pub trait Narrow: Element {
    /// The kernel of [`super::rope`].
    const ROPE: &str;
    /// The kernels of [`super::attend_decode`] for 1, 2, 4 and 8 queries that share a key.
    const ATTEND: [&str; 4];
    /// What follows each of them.
    const COMBINE: &str;
    /// The kernel of [`super::attend_prefill`].
    const PREFILL: &str;
    /// The kernel of [`super::add_rms_norm`].
    const ADD_RMS_NORM: &str;
    /// The kernel of [`super::geglu`].
    const GEGLU: &str;
    /// The kernels of [`super::Matrix::embed`].
    const EMBED: ByWeights<&str>;
    /// The kernels of [`super::Matrix::multiply`], for up to 8, 16, 32 and 64 vectors.
    const SKINNY: ByWeights<[&str; 4]>;
    /// The kernels of [`super::Matrix::multiply_many`], for tiles of 64 and of 128.
    const GEMM: ByWeights<[&str; 2]>;
}

macro_rules! narrow {
    ($type:ty, $name:literal) => {
        impl Narrow for $type {
            const ROPE: &str = concat!("rope_", $name);
            const ATTEND: [&str; 4] = [
                concat!("attend_", $name, "_1"),
                concat!("attend_", $name, "_2"),
                concat!("attend_", $name, "_4"),
                concat!("attend_", $name, "_8"),
            ];
            const COMBINE: &str = concat!("combine_", $name);
            const PREFILL: &str = concat!("prefill_", $name);
            const ADD_RMS_NORM: &str = concat!("add_rms_norm_", $name);
            const GEGLU: &str = concat!("geglu_", $name);
            const EMBED: ByWeights<&str> =
                [concat!("embed_plain_", $name), concat!("embed_q8_0_", $name), concat!("embed_q4k_", $name)];
            const SKINNY: ByWeights<[&str; 4]> =
                [narrow!(skinny "plain", $name), narrow!(skinny "q8_0", $name), narrow!(skinny "q4k", $name)];
            const GEMM: ByWeights<[&str; 2]> =
                [narrow!(gemm "plain", $name), narrow!(gemm "q8_0", $name), narrow!(gemm "q4k", $name)];
        }
    };
    (skinny $weights:literal, $name:literal) => {
        [
            concat!("skinny_", $weights, "_", $name, "_8"),
            concat!("skinny_", $weights, "_", $name, "_16"),
            concat!("skinny_", $weights, "_", $name, "_32"),
            concat!("skinny_", $weights, "_", $name, "_64"),
        ]
    };
    (gemm $weights:literal, $name:literal) => {
        [concat!("gemm_", $weights, "_", $name, "_64"), concat!("gemm_", $weights, "_", $name, "_128")]
    };
}
narrow!(bf16, "bf16");
// What is too large becomes the largest number.
narrow!(f16, "f16");

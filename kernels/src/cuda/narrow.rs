//! The two types of sixteen bits that tensor cores multiply, and the kernels for each.
//!
//! Keys, values and what is multiplied with weights are kept in one of them. Sums, norms and the residual stream are always
//! f32.

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
    /// The kernel of [`super::draw`].
    const DRAW: &str;
    /// The kernels of [`super::Matrix::embed`].
    const EMBED: ByWeights<&str>;
    /// The kernels for products with up to 8, 16, 32 and 64 vectors.
    const SKINNY: ByWeights<[&str; 4]>;
    /// The same of gates and ups.
    const SKINNY_GEGLU: ByWeights<[&str; 4]>;
    /// The kernels for products of many rows with up to 32 and 64 vectors.
    const WIDE: ByWeights<[&str; 2]>;
    /// The same of gates and ups.
    const WIDE_GEGLU: ByWeights<[&str; 2]>;
    /// The kernels for products with many vectors, in tiles of 64 and of 128.
    const GEMM: ByWeights<[&str; 2]>;
    /// The same of gates and ups.
    const GEMM_GEGLU: ByWeights<[&str; 2]>;
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
            const DRAW: &str = concat!("draw_", $name);
            const EMBED: ByWeights<&str> =
                [concat!("embed_plain_", $name), concat!("embed_q8_0_", $name), concat!("embed_q4k_", $name)];
            const SKINNY: ByWeights<[&str; 4]> = narrow!(skinny "skinny_", $name);
            const SKINNY_GEGLU: ByWeights<[&str; 4]> = narrow!(skinny "skinny_geglu_", $name);
            const WIDE: ByWeights<[&str; 2]> = narrow!(wide "wide_", $name);
            const WIDE_GEGLU: ByWeights<[&str; 2]> = narrow!(wide "wide_geglu_", $name);
            const GEMM: ByWeights<[&str; 2]> = narrow!(gemm "gemm_", $name);
            const GEMM_GEGLU: ByWeights<[&str; 2]> = narrow!(gemm "gemm_geglu_", $name);
        }
    };
    (skinny $kind:literal, $name:literal) => {
        [
            narrow!(of 8 16 32 64, $kind, "plain", $name),
            narrow!(of 8 16 32 64, $kind, "q8_0", $name),
            narrow!(of 8 16 32 64, $kind, "q4k", $name),
        ]
    };
    (wide $kind:literal, $name:literal) => {
        [
            narrow!(of 32 64, $kind, "plain", $name),
            narrow!(of 32 64, $kind, "q8_0", $name),
            narrow!(of 32 64, $kind, "q4k", $name),
        ]
    };
    (gemm $kind:literal, $name:literal) => {
        [
            narrow!(of 64 128, $kind, "plain", $name),
            narrow!(of 64 128, $kind, "q8_0", $name),
            narrow!(of 64 128, $kind, "q4k", $name),
        ]
    };
    (of $($size:literal)*, $kind:literal, $weights:literal, $name:literal) => {
        [$(concat!($kind, $weights, "_", $name, "_", $size)),*]
    };
}
narrow!(bf16, "bf16");
// What is too large becomes the largest number.
narrow!(f16, "f16");

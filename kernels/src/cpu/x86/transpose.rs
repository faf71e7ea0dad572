//! Rows of words to columns, in registers.

use std::arch::x86_64::*;

use super::super::simd::{LANES, Lane};
use super::Avx2;

/// As [`super::super::simd::Simd::transpose`]. `_proof` that this machine has the features.
#[inline(always)]
pub(super) fn avx2(_proof: Avx2, from: &[u8], stride: usize, to: &mut [Lane<[u8; 4]>; 8]) {
    assert!(from.len() >= (LANES - 1) * stride + size_of::<__m256i>(), "rows do not fit");
    for half in [0, 8] {
        // SAFETY: `_proof` says that this machine has the features; each of the sixteen rows has 32 bytes, as was just checked,
        // and a lane has room for two halves of 32 bytes.
        unsafe {
            let row = |row: usize| _mm256_loadu_si256(from.as_ptr().add((half + row) * stride).cast());
            // Of two rows, then of four, the same words together; within each half of a register.
            let twos: [[__m256i; 2]; 4] = std::array::from_fn(|two| {
                let (a, b) = (row(2 * two), row(2 * two + 1));
                [_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b)]
            });
            let fours: [[__m256i; 4]; 2] = std::array::from_fn(|four| {
                let ([a, b], [c, d]) = (twos[2 * four], twos[2 * four + 1]);
                [
                    _mm256_unpacklo_epi64(a, c),
                    _mm256_unpackhi_epi64(a, c),
                    _mm256_unpacklo_epi64(b, d),
                    _mm256_unpackhi_epi64(b, d),
                ]
            });
            for word in 0..4 {
                let (a, b) = (fours[0][word], fours[1][word]);
                let low = _mm256_permute2x128_si256::<0x20>(a, b);
                let high = _mm256_permute2x128_si256::<0x31>(a, b);
                _mm256_storeu_si256(to[word].as_mut_ptr().cast::<u8>().add(4 * half).cast(), low);
                _mm256_storeu_si256(to[word + 4].as_mut_ptr().cast::<u8>().add(4 * half).cast(), high);
            }
        }
    }
}

//! Padding: a sealed length tells a bucket, not a text.

use serde::Serialize;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The smallest bucket, in bytes.
const MIN_BUCKET: usize = 512;
/// Above this size buckets grow by this much rather than doubling.
const STEP: usize = 64 * 1024;

/// The length that a plaintext of `len` bytes is padded to: a power of two, or a multiple of 64 KiB.
pub(super) fn bucket(len: usize) -> usize {
    if len <= STEP { len.next_power_of_two().max(MIN_BUCKET) } else { len.next_multiple_of(STEP) }
}

/// Writes `value` as JSON and fills it up with spaces, which JSON ignores, to the next bucket of `least` bytes or more.
pub(super) fn to_padded_json(
    value: &impl Serialize,
    least: usize,
) -> Result<Secret<Vec<u8>>, serde_json::Error> {
    let mut json = Zeroizing::new(serde_json::to_vec(value)?);
    let length = bucket(json.len().max(least));
    // A copy into the final size, so that growing in place leaves no unwiped half behind.
    let mut padded = Vec::with_capacity(length);
    padded.append(&mut json);
    padded.resize(length, b' ');
    Ok(Secret::new(padded))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_double_and_then_step() {
        for (len, expected) in
            [(0, 512), (512, 512), (513, 1024), (65_536, 65_536), (65_537, 131_072), (131_073, 196_608)]
        {
            assert_eq!(bucket(len), expected, "{len}");
        }
    }

    #[test]
    fn texts_of_one_bucket_are_of_one_length() {
        let lengths = |least| {
            ["", "a", &"b".repeat(400)].map(|text| to_padded_json(&text, least).unwrap().expose().len())
        };
        assert_eq!(lengths(0), [512; 3]);
        assert_eq!(lengths(1100), [2048; 3]);
        assert_eq!(to_padded_json(&"b".repeat(3000), 1100).unwrap().expose().len(), 4096);
    }
}

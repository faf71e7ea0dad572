//! Padding: a sealed length tells a bucket, not a text.

use serde::Serialize;
use zeroize::Zeroizing;

use crate::secret::Secret;

/// The smallest bucket of a request, in bytes: the text around a cursor that editors send fits, whatever has to be escaped in it.
const SMALLEST_REQUEST: usize = 32 * 1024;
/// Larger requests are padded to a multiple of this.
const REQUEST_STEP: usize = 128 * 1024;
/// The id, the path and the server of a call, in bytes of JSON, generously.
const CALL_BYTES: usize = 256;
/// The smallest bucket of an answer, in bytes.
const SMALLEST_ANSWER: usize = 512;
/// Above this size the buckets of answers grow by this much rather than doubling.
const ANSWER_STEP: usize = 64 * 1024;

/// How long the JSON of a request's body may be, in bytes, for the request to fall into the smallest bucket.
pub const SMALLEST_BUCKET_BODY: usize = SMALLEST_REQUEST - CALL_BYTES;

/// The length that a request's plaintext of `len` bytes is padded to: 32 KiB, or a multiple of 128 KiB.
pub(super) fn request_bucket(len: usize) -> usize {
    if len <= SMALLEST_REQUEST { SMALLEST_REQUEST } else { len.next_multiple_of(REQUEST_STEP) }
}

/// The length that an answer's plaintext of `len` bytes is padded to: a power of two, or a multiple of 64 KiB.
pub(super) fn answer_bucket(len: usize) -> usize {
    if len <= ANSWER_STEP {
        len.next_power_of_two().max(SMALLEST_ANSWER)
    } else {
        len.next_multiple_of(ANSWER_STEP)
    }
}

/// Writes `value` as JSON and fills it up with spaces, which JSON ignores, to the length that `bucket` gives for its own.
pub(super) fn to_padded_json(
    value: &impl Serialize,
    bucket: impl Fn(usize) -> usize,
) -> Result<Secret<Vec<u8>>, serde_json::Error> {
    let mut json = Zeroizing::new(serde_json::to_vec(value)?);
    let length = bucket(json.len()).max(json.len());
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
    fn buckets_of_answers_double_and_then_step() {
        for (len, expected) in
            [(0, 512), (512, 512), (513, 1024), (65_536, 65_536), (65_537, 131_072), (131_073, 196_608)]
        {
            assert_eq!(answer_bucket(len), expected, "{len}");
        }
    }

    #[test]
    fn buckets_of_requests_are_few() {
        for (len, expected) in
            [(0, 32_768), (32_768, 32_768), (32_769, 131_072), (131_072, 131_072), (131_073, 262_144)]
        {
            assert_eq!(request_bucket(len), expected, "{len}");
        }
    }

    /// 4,000 characters of any kind, also from a client that escapes all that is not ASCII.
    #[test]
    fn a_usual_window_falls_into_the_smallest_bucket_however_it_is_escaped() {
        let escaped = |character: char| {
            if character.is_ascii() {
                return serde_json::to_string(&character).unwrap().len() - 2;
            }
            // `\uXXXX` for each half of a surrogate pair.
            6 * character.len_utf16()
        };
        for (character, bytes) in
            [('a', 1), ('\t', 2), ('"', 2), ('\\', 2), ('\u{1b}', 6), ('é', 6), ('한', 6)]
        {
            assert_eq!(escaped(character), bytes, "{character:?}");
            assert!(4000 * bytes + 512 <= SMALLEST_BUCKET_BODY, "{character:?}");
        }
    }

    #[test]
    fn texts_of_one_bucket_are_of_one_length() {
        let lengths = |least: usize| {
            let padded = |text| to_padded_json(&text, |len| answer_bucket(len.max(least))).unwrap();
            ["", "a", &"b".repeat(400)].map(|text| padded(text).expose().len())
        };
        assert_eq!(lengths(0), [512; 3]);
        assert_eq!(lengths(1100), [2048; 3]);
        let long = to_padded_json(&"b".repeat(3000), answer_bucket).unwrap();
        assert_eq!(long.expose().len(), 4096);
    }
}

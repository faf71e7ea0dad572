//! Blocks against what the `gguf` package reads in them: `tests/vectors/gguf/make.py`.

use serde_json::Value;

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |digit: u8| char::from(digit).to_digit(16).unwrap() as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Each type of block: its bytes and its numbers, which are f32 in hexadecimal too.
fn cases() -> Vec<(Source, Vec<u8>, Vec<f32>)> {
    let json = include_str!("../../../../tests/vectors/gguf/blocks.json");
    let cases: Value = serde_json::from_str(json).unwrap();
    let source = |name: &str| match name {
        "Q4_0" => Source::Q4_0,
        "Q4_1" => Source::Q4_1,
        "Q5_0" => Source::Q5_0,
        "Q5_1" => Source::Q5_1,
        "Q8_0" => Source::Q8_0,
        "Q2_K" => Source::Q2K,
        "Q3_K" => Source::Q3K,
        "Q4_K" => Source::Q4K,
        "Q5_K" => Source::Q5K,
        "Q6_K" => Source::Q6K,
        "IQ4_NL" => Source::Iq4Nl,
        "IQ4_XS" => Source::Iq4Xs,
        other => panic!("the vectors have {other}"),
    };
    let cases: Vec<_> = cases
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, case)| {
            let [blocks, numbers] = ["blocks", "numbers"].map(|member| bytes(case[member].as_str().unwrap()));
            (
                source(name),
                blocks,
                numbers.as_chunks().0.iter().map(|bits| f32::from_le_bytes(*bits)).collect(),
            )
        })
        .collect();
    assert_eq!(cases.len(), 12);
    cases
}

fn read(source: Source, bytes: &[u8]) -> Vec<f32> {
    let mut numbers = vec![f32::NAN; source.numbers(bytes.len())];
    source.read(bytes, &mut numbers);
    numbers
}

#[test]
fn blocks_are_read_as_by_the_gguf_package_bit_for_bit() {
    for (source, blocks, expected) in cases() {
        assert_eq!(source.bytes(256), Some(blocks.len()), "{source:?}");
        assert_eq!(read(source, &blocks), expected, "{source:?}");
        assert!(source.is_quantized());
        // A cut block is none.
        assert!(source.numbers(blocks.len() - 1) < 256);
    }
}

#[test]
fn what_fits_into_q8_0_keeps_its_value() {
    let mut taken = Vec::new();
    for (source, blocks, expected) in cases() {
        let Some(as_q8_0) = source.as_q8_0(&blocks) else { continue };
        let numbers = read(Source::Q8_0, &as_q8_0);
        if source == Source::Iq4Xs {
            // The scales are products of an f16 and six bits.
            assert_ne!(numbers, expected);
            for (number, expected) in numbers.iter().zip(&expected) {
                assert!(
                    (number - expected).abs() <= expected.abs() / 2048.0,
                    "{number} instead of {expected}"
                );
            }
        } else {
            assert_eq!(numbers, expected, "{source:?}");
        }
        taken.push(source);
    }
    assert_eq!(taken, [Source::Iq4Nl, Source::Iq4Xs, Source::Q4_0, Source::Q5_0, Source::Q8_0]);
}

#[test]
fn a_scale_that_is_no_number_leaves_none() {
    for (source, mut blocks, _) in cases() {
        let (numbers, length) = source.block();
        let at = match source {
            Source::Q2K => 80,
            Source::Q3K => 108,
            Source::Q6K => 208,
            _ => 0,
        };
        blocks[at..at + 2].copy_from_slice(&f16::NAN.to_le_bytes());
        assert!(
            read(source, &blocks[..length]).iter().all(|number| number.is_nan()),
            "{source:?} of {numbers}"
        );
        if let Some(blocks) = source.as_q8_0(&blocks) {
            assert!(read(Source::Q8_0, &blocks)[..32].iter().all(|number| number.is_nan()), "{source:?}");
        }
    }
}

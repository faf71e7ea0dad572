//! ggml's numbers for types of tensors.

use codeseal_kernels::cpu::Source;

/// How a tensor of the type `number` is written, if that type is read.
pub(super) fn source(number: u32) -> Option<Source> {
    Some(match number {
        0 => Source::F32,
        1 => Source::F16,
        2 => Source::Q4_0,
        3 => Source::Q4_1,
        6 => Source::Q5_0,
        7 => Source::Q5_1,
        8 => Source::Q8_0,
        10 => Source::Q2K,
        11 => Source::Q3K,
        12 => Source::Q4K,
        13 => Source::Q5K,
        14 => Source::Q6K,
        20 => Source::Iq4Nl,
        23 => Source::Iq4Xs,
        30 => Source::Bf16,
        _ => return None,
    })
}

/// What ggml calls the type `number`, those included that it no longer reads itself.
pub(super) fn name(number: u32) -> String {
    let name = match number {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        4 => "Q4_2",
        5 => "Q4_3",
        6 => "Q5_0",
        7 => "Q5_1",
        8 => "Q8_0",
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        12 => "Q4_K",
        13 => "Q5_K",
        14 => "Q6_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        30 => "BF16",
        31 => "Q4_0_4_4",
        32 => "Q4_0_4_8",
        33 => "Q4_0_8_8",
        34 => "TQ1_0",
        35 => "TQ2_0",
        36 => "IQ4_NL_4_4",
        37 => "IQ4_NL_4_8",
        38 => "IQ4_NL_8_8",
        39 => "MXFP4",
        40 => "NVFP4",
        41 => "Q1_0",
        42 => "Q2_0",
        other => return format!("number {other}"),
    };
    name.to_owned()
}

/// Which download has types that are read, in place of one with the type `number`.
pub(super) fn instead(number: u32) -> &'static str {
    match number {
        // Four bits, reordered for one kind of CPU.
        31..=33 => "Q4_0 or Q4_K_M",
        36..=38 => "IQ4_NL or Q4_K_M",
        39 | 40 => "Q4_K_M or IQ4_XS",
        18 | 21 => "Q3_K_M or IQ4_XS",
        16 | 17 | 19 | 22 | 29 | 34 | 35 | 41 | 42 => "Q2_K or Q3_K_M",
        // Not for weights, or of more bits than a float.
        _ => "BF16, Q8_0 or Q4_K_M",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_that_is_read_has_a_name_and_every_other_one_an_alternative() {
        for number in 0..43 {
            let name = name(number);
            assert!(!name.contains("number"), "{number}");
            let of_source =
                source(number).map(|source| format!("{source:?}").to_uppercase().replace('_', ""));
            assert!(of_source.is_none_or(|of_source| of_source == name.replace('_', "")), "{number}: {name}");
        }
        assert_eq!((name(43), source(43)), (String::from("number 43"), None));
        assert_eq!(instead(21), "Q3_K_M or IQ4_XS");
    }
}

//! How many KV blocks there is memory for.

use super::{EngineConfig, StartError};
use crate::machine::Available;
use crate::model::{MemoryNeeds, NotEnoughMemory, StepRoom};
use codeseal_kernels::kv::BLOCK_TOKENS;

/// The least that is worth starting with, in tokens: a short prompt and an answer.
const LEAST_TOKENS: usize = 512;
/// What to change if memory does not suffice.
const ADVICE: &str = "lower --kv-cache-mib, --max-running or --step-tokens, choose a smaller type with --quantize, or \
    raise the limit";
/// What to change if memory does not suffice for a comparison of kernels and candle.
pub(super) const WITNESS_ADVICE: &str =
    "choose --backend kernels or --backend candle, which are not compared then, or raise the limit";

/// The number of KV blocks of `block_bytes` for sequences of up to `context_length` tokens, if `available` bytes may be taken
/// and the configuration does not say how many.
///
/// # Errors
/// [`StartError::TooFewBlocks`]
pub(super) fn blocks(
    config: &EngineConfig,
    block_bytes: usize,
    context_length: usize,
    available: u64,
) -> Result<usize, StartError> {
    let bytes = config.kv_cache_bytes.unwrap_or(available);
    let affordable = usize::try_from(bytes / block_bytes.max(1) as u64).unwrap_or(usize::MAX);
    let useful = config.max_running.saturating_mul(whole(context_length));
    // A configured size is used up, for the prefix cache; otherwise no more than running sequences can use.
    let blocks = if config.kv_cache_bytes.is_some() { affordable } else { affordable.min(useful) };
    let least = whole(LEAST_TOKENS.min(context_length));
    if blocks < least {
        return Err(StartError::TooFewBlocks { bytes, least: (least * block_bytes) as u64 });
    }
    Ok(blocks)
}

/// Refuses what does not fit into `available`, before it is taken: weights, keys and values, and the largest step.
///
/// # Errors
/// [`StartError::NotEnoughMemory`]
pub(super) fn check(
    config: &EngineConfig,
    needs: &MemoryNeeds,
    room: StepRoom,
    available: Available,
) -> Result<(), StartError> {
    let least = whole(LEAST_TOKENS.min(needs.context_length)) as u64 * needs.kv_block;
    let kv = config.kv_cache_bytes.unwrap_or(least);
    let scratch = needs.scratch(room.rows, room.rows.min(room.batch.saturating_mul(1 + config.draft_tokens)));
    Ok(needs.check(kv, scratch, available, ADVICE)?)
}

/// Refuses `bytes` of weights that are kept in memory for a comparison of kernels and candle, if they do not fit into
/// `available`.
///
/// # Errors
/// [`StartError::NotEnoughMemory`]
pub(super) fn check_witness(bytes: u64, available: Available) -> Result<(), StartError> {
    let Available { bytes: most, bound } = available;
    let advice = WITNESS_ADVICE;
    let error = NotEnoughMemory { weights: bytes, kv: 0, scratch: 0, available: most, bound, advice };
    if bytes > most { Err(error.into()) } else { Ok(()) }
}

/// What may be taken for keys and values unless configured, once the weights are loaded: a quarter of what is available,
/// because others live there too, but no less than a short request needs.
pub(super) fn automatic(needs: &MemoryNeeds, available: Available) -> u64 {
    let least = whole(LEAST_TOKENS.min(needs.context_length)) as u64 * needs.kv_block;
    (available.bytes / 4).max(least.min(available.bytes))
}

/// Blocks for `tokens`.
fn whole(tokens: usize) -> usize {
    tokens.div_ceil(BLOCK_TOKENS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Bound;
    use crate::model::{Checkpoint, ModelFiles, Quantize};

    fn tiny() -> MemoryNeeds {
        MemoryNeeds::of(&Checkpoint::open(&ModelFiles::tiny()).unwrap(), Quantize::None)
    }

    fn config(kv_cache_bytes: Option<u64>) -> EngineConfig {
        EngineConfig { kv_cache_bytes, ..EngineConfig::new(4, 0) }
    }

    #[test]
    fn a_stated_budget_is_used_up_and_an_unstated_one_no_further_than_it_is_of_use() {
        assert_eq!(blocks(&config(Some(100_999)), 1000, 64, 0).unwrap(), 100);
        assert_eq!(blocks(&config(None), 1000, 8192, u64::MAX).unwrap(), 4 * 256);
        assert_eq!(blocks(&config(None), 1000, 8192, 500_000).unwrap(), 500);
    }

    #[test]
    fn too_little_is_refused_with_what_is_needed() {
        let error = blocks(&config(Some(15_999)), 1000, 8192, u64::MAX).unwrap_err();
        assert!(matches!(error, StartError::TooFewBlocks { bytes: 15_999, least: 16_000 }), "{error}");
        assert!(blocks(&config(Some(2000)), 1000, 64, 0).is_ok(), "a context shorter than that is enough");
    }

    #[test]
    fn what_does_not_fit_is_refused_before_it_is_taken() {
        let needs = tiny();
        let room = StepRoom { rows: 256, num_logits: 4, batch: 4 };
        let bytes = |bytes| Available { bytes, bound: Bound::ControlGroup };
        let check = |kv, available| check(&config(kv), &needs, room, bytes(available));
        assert!(check(Some(100 << 20), 1 << 30).is_ok());
        for (kv, available) in [(Some(1 << 40), 24 << 30), (Some(u64::MAX), 24 << 30), (None, 50 << 20)] {
            let error = check(kv, available).unwrap_err();
            assert!(matches!(error, StartError::NotEnoughMemory(_)), "{error}");
        }
    }

    #[test]
    fn a_comparison_that_does_not_fit_is_refused_with_what_avoids_it() {
        let available = Available { bytes: 1 << 30, bound: Bound::Machine };
        assert!(check_witness(1 << 30, available).is_ok());
        let error = check_witness((1 << 30) + 1, available).unwrap_err();
        assert!(matches!(error, StartError::NotEnoughMemory(_)));
        assert!(error.to_string().contains("--backend kernels"), "{error}");
    }

    #[test]
    fn unless_configured_it_is_a_quarter_of_what_the_control_group_leaves() {
        let needs = tiny();
        let bytes = |bytes| automatic(&needs, Available { bytes, bound: Bound::ControlGroup });
        assert_eq!(bytes(4 << 30), 1 << 30);
        let least = 16 * needs.kv_block;
        assert_eq!((bytes(least), bytes(least / 2)), (least, least / 2));
    }
}

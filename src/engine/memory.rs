//! How many blocks of keys and values there is memory for.
//!
//! Must not touch: requests.

use super::{EngineConfig, StartError};
use codeseal_kernels::cpu::BLOCK_TOKENS;

/// The least that is worth starting with, in tokens: a short prompt and an answer.
const LEAST_TOKENS: usize = 512;

/// How many blocks of `block_bytes` to make for sequences of up to `context_length` tokens, if `available` bytes may be
/// taken unless the configuration says how many.
///
/// # Errors
/// [`StartError::TooFewBlocks`]
pub(super) fn blocks(
    config: &EngineConfig,
    block_bytes: usize,
    context_length: usize,
    available: u64,
) -> Result<usize, StartError> {
    let whole = |tokens: usize| tokens.div_ceil(BLOCK_TOKENS);
    let bytes = config.kv_cache_bytes.unwrap_or(available);
    let affordable = usize::try_from(bytes / block_bytes.max(1) as u64).unwrap_or(usize::MAX);
    let useful = config.max_running.saturating_mul(whole(context_length));
    // What was asked for by number is made, for the prefix cache; what was not stays within use.
    let blocks = if config.kv_cache_bytes.is_some() { affordable } else { affordable.min(useful) };
    let least = whole(LEAST_TOKENS.min(context_length));
    if blocks < least {
        return Err(StartError::TooFewBlocks { bytes, least: (least * block_bytes) as u64 });
    }
    Ok(blocks)
}

/// What may be taken of this machine's memory: others live there too.
pub(super) fn available() -> u64 {
    free_memory() / 4
}

/// Bytes of memory that nobody uses; what a small machine has, if the system does not say.
fn free_memory() -> u64 {
    const UNKNOWN: u64 = 1 << 30;
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.map_or(UNKNOWN, |kib| kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn this_machine_has_some_memory() {
        assert!(free_memory() > 1 << 20);
    }
}

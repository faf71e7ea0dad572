//! The models that there are kernels for.

use codeseal_kernels::cuda::{GROUP, HEAD, MOST_WIDTH};

use crate::model::gemma::config::Config;
use crate::model::{ModelError, Quantize};

/// Refuses what the device has no kernels for.
///
/// # Errors
/// [`ModelError::NotOnDevice`]
pub(crate) fn check(config: &Config, quantize: Quantize) -> Result<(), ModelError> {
    let sharing = config.num_heads / config.num_kv_heads;
    if config.head_dim != HEAD {
        return Err(ModelError::NotOnDevice("heads that are not 256 wide"));
    }
    if config.attention_bias {
        return Err(ModelError::NotOnDevice("attention with biases"));
    }
    if ![1, 2, 4, 8].contains(&sharing) {
        return Err(ModelError::NotOnDevice("keys that are shared by other than 1, 2, 4 or 8 heads"));
    }
    if config.hidden_size > MOST_WIDTH {
        return Err(ModelError::NotOnDevice("rows that are wider than 8,192"));
    }
    let groups = if quantize == Quantize::None { 8 } else { GROUP };
    if !config.hidden_size.is_multiple_of(groups) || !config.intermediate_size.is_multiple_of(groups) {
        return Err(ModelError::NotOnDevice("rows that are not whole groups of numbers"));
    }
    Ok(())
}

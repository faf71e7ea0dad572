//! Where the server stands between its start and its end, and what that means for a request.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use crate::protocol::ErrorCode;

const STARTING: u8 = 0;
const READY: u8 = 1;
const DRAINING: u8 = 2;

/// Starting, ready, draining, in this order and never back; beside it, whether the attestation token is good.
#[derive(Debug, Default)]
pub(crate) struct Lifecycle {
    phase: AtomicU8,
    attestation_lost: AtomicBool,
}

impl Lifecycle {
    /// The model is warm. Says whether this changed anything: a server that drains stays draining.
    pub(crate) fn set_ready(&self) -> bool {
        self.phase.compare_exchange(STARTING, READY, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }

    /// No request is taken from here on.
    pub(crate) fn set_draining(&self) {
        self.phase.store(DRAINING, Ordering::SeqCst);
    }

    /// Whether the launcher's token has expired. Says whether this changed anything.
    pub(crate) fn set_attestation_lost(&self, lost: bool) -> bool {
        self.attestation_lost.swap(lost, Ordering::SeqCst) != lost
    }

    /// Whether the launcher's token has expired.
    pub(crate) fn attestation_lost(&self) -> bool {
        self.attestation_lost.load(Ordering::SeqCst)
    }

    /// Whether a request may be taken. An expired token does not hinder those whose key is known.
    pub(crate) fn check(&self) -> Result<(), ErrorCode> {
        match self.phase.load(Ordering::SeqCst) {
            READY => Ok(()),
            STARTING => Err(ErrorCode::Starting),
            _ => Err(ErrorCode::Draining),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_forward_only() {
        let lifecycle = Lifecycle::default();
        assert_eq!(lifecycle.check(), Err(ErrorCode::Starting));
        assert!(lifecycle.set_ready());
        assert_eq!(lifecycle.check(), Ok(()));
        lifecycle.set_draining();
        assert!(!lifecycle.set_ready());
        assert_eq!(lifecycle.check(), Err(ErrorCode::Draining));
    }

    #[test]
    fn only_a_change_of_the_token_is_worth_a_word() {
        let lifecycle = Lifecycle::default();
        assert!(!lifecycle.set_attestation_lost(false));
        assert!(lifecycle.set_attestation_lost(true) && lifecycle.attestation_lost());
        assert!(!lifecycle.set_attestation_lost(true));
        assert!(lifecycle.set_attestation_lost(false) && !lifecycle.attestation_lost());
    }
}

//! The ledger: what the sandbox was asked and what it decided.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use tokio::sync::watch;

use super::tokens::Principal;
use crate::attestation::verify::VerifyError;
use crate::policy::{LookedAt, Unmet};

/// How many exchanges are remembered one by one.
const MAX_EXCHANGES: usize = 64;

/// What was asked and decided.
pub struct Ledger {
    counts: watch::Sender<Counts>,
    exchanges: Mutex<VecDeque<Exchange>>,
}

/// How often things happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Tokens that launchers wrote into their files.
    pub token_files: u64,
    /// Refreshes that the attestation service would not give a token for.
    pub failed_refreshes: u64,
    /// Requests to the launchers' sockets.
    pub launcher: Tally,
    /// Token exchanges.
    pub sts: Tally,
    /// Impersonations.
    pub iam: Tally,
    /// KMS Encrypt, by who asked.
    pub encrypt: BTreeMap<Principal, Tally>,
    /// KMS Decrypt, by who asked.
    pub decrypt: BTreeMap<Principal, Tally>,
    /// Requests that a fault struck; those that hang are counted when they begin to.
    pub faults: u64,
}

/// How requests of one kind ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Served.
    pub granted: u64,
    /// Refused because of who asked.
    pub denied: u64,
    /// Anything else: malformed, wrong ciphertext, a fault.
    pub failed: u64,
}

/// One token exchange.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Exchange {
    /// How it ended.
    pub verdict: Verdict,
    /// The claims that the attribute condition mentions; empty if the token was no good.
    pub claims: Vec<LookedAt>,
}

/// How a token exchange ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The workload got its access token.
    Granted,
    /// The request was not one that the service understands.
    Malformed,
    /// The attestation token is no good.
    BadToken {
        /// Why, in words.
        #[serde(serialize_with = "as_text")]
        why: VerifyError,
    },
    /// The attestation token is good, but it is not that of the workload that the condition asks for.
    ConditionNotMet(Unmet),
}

/// How one request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallOutcome {
    Granted,
    Denied,
    Failed,
}

impl Counts {
    /// All KMS Encrypt requests together.
    pub fn encrypts(&self) -> Tally {
        self.encrypt.values().fold(Tally::default(), Tally::plus)
    }

    /// All KMS Decrypt requests together.
    pub fn decrypts(&self) -> Tally {
        self.decrypt.values().fold(Tally::default(), Tally::plus)
    }
}

impl Tally {
    /// All requests, however they ended.
    pub fn total(&self) -> u64 {
        self.granted + self.denied + self.failed
    }

    pub(super) fn add(&mut self, outcome: CallOutcome) {
        *match outcome {
            CallOutcome::Granted => &mut self.granted,
            CallOutcome::Denied => &mut self.denied,
            CallOutcome::Failed => &mut self.failed,
        } += 1;
    }

    fn plus(self, other: &Self) -> Self {
        Self {
            granted: self.granted + other.granted,
            denied: self.denied + other.denied,
            failed: self.failed + other.failed,
        }
    }
}

impl Ledger {
    pub(super) fn new() -> Self {
        Self { counts: watch::Sender::new(Counts::default()), exchanges: Mutex::default() }
    }

    /// The counts by now.
    pub fn counts(&self) -> Counts {
        self.counts.borrow().clone()
    }

    /// Waits until the counts are as `reached` says. Give it a timeout.
    pub async fn until(&self, reached: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.subscribe();
        match counts.wait_for(reached).await {
            Ok(counts) => counts.clone(),
            // The sender is in `self`.
            Err(_) => self.counts(),
        }
    }

    /// The last token exchange.
    pub fn last_exchange(&self) -> Option<Exchange> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).back().cloned()
    }

    /// The last token exchanges, the newest at the end.
    pub fn exchanges(&self) -> Vec<Exchange> {
        self.exchanges.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(super) fn count(&self, change: impl FnOnce(&mut Counts)) {
        self.counts.send_modify(change);
    }

    pub(super) fn exchange(&self, exchange: Exchange) {
        let outcome = match exchange.verdict {
            Verdict::Granted => CallOutcome::Granted,
            Verdict::Malformed => CallOutcome::Failed,
            Verdict::BadToken { .. } | Verdict::ConditionNotMet(_) => CallOutcome::Denied,
        };
        {
            let mut exchanges = self.exchanges.lock().unwrap_or_else(PoisonError::into_inner);
            if exchanges.len() == MAX_EXCHANGES {
                exchanges.pop_front();
            }
            exchanges.push_back(exchange);
        }
        self.count(|counts| counts.sts.add(outcome));
    }
}

fn as_text<S: serde::Serializer>(why: &VerifyError, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(why)
}

//! Faults on demand: what goes wrong, how often, from code or over `POST /sandbox/faults`.
//!
//! A fault stays until it has struck as often as it was asked to, or until [`Faults::clear`].

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// Something that goes wrong. Statuses are HTTP's, 400 to 599; delays are milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fault", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// The launcher's attestation service refuses: the socket answers so, and the file is not refreshed.
    LauncherStatus {
        /// What the socket answers.
        status: u16,
    },
    /// The launcher's socket does not answer.
    LauncherHang,
    /// The token exchange answers with an error.
    StsStatus {
        /// Which one.
        status: u16,
    },
    /// The token exchange does not answer.
    StsHang,
    /// The token exchange takes its time.
    StsSlow {
        /// How much.
        delay_ms: u64,
    },
    /// The token exchange answers 200 with something that is no token.
    StsGarbage,
    /// Impersonation answers with an error; 403 is what a missing grant looks like.
    IamStatus {
        /// Which one.
        status: u16,
    },
    /// Impersonation does not answer.
    IamHang,
    /// Cloud KMS answers with an error: 429 is a spent quota, 503 an outage.
    KmsStatus {
        /// Which one.
        status: u16,
    },
    /// Cloud KMS does not answer.
    KmsHang,
    /// Cloud KMS takes its time.
    KmsSlow {
        /// How much.
        delay_ms: u64,
    },
    /// The checksums in Cloud KMS's answers do not match their data.
    KmsCorruptCrc,
    /// The key is disabled.
    KmsKeyDisabled,
    /// No caller may use the key (403).
    KmsPermissionDenied,
}

/// A fault that is waiting to strike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Active {
    /// What.
    #[serde(flatten)]
    pub fault: Fault,
    /// How often it will still strike; `None` until it is cleared.
    pub times: Option<u32>,
}

/// The faults that are waiting to strike.
pub struct Faults {
    active: Mutex<Vec<Active>>,
    /// Counts the clearings, so that what hangs can go on.
    cleared: watch::Sender<u64>,
}

/// The part of the sandbox that a request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Launcher,
    Sts,
    Iam,
    Kms,
}

/// What goes wrong with one request, once it was hung or delayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Struck {
    pub(super) status: Option<StatusCode>,
    pub(super) garbage: bool,
    pub(super) corrupt_crc: bool,
    pub(super) key_disabled: bool,
    pub(super) permission_denied: bool,
}

impl Faults {
    pub(super) fn new() -> Self {
        Self { active: Mutex::default(), cleared: watch::Sender::new(0) }
    }

    /// Lets every request that `fault` is about fail, until [`Faults::clear`].
    pub fn inject(&self, fault: Fault) {
        self.push(Active { fault, times: None });
    }

    /// Lets the next `times` requests that `fault` is about fail.
    pub fn inject_next(&self, times: u32, fault: Fault) {
        if times > 0 {
            self.push(Active { fault, times: Some(times) });
        }
    }

    /// Ends all faults; requests that hang are then served.
    pub fn clear(&self) {
        self.lock().clear();
        self.cleared.send_modify(|count| *count += 1);
    }

    /// What is waiting to strike.
    pub fn active(&self) -> Vec<Active> {
        self.lock().clone()
    }

    /// Strikes a request for `target`: hangs and delays it here, and says what else goes wrong.
    ///
    /// `noticed` is called before that if anything goes wrong at all. A hanging request is given up by dropping
    /// this future, which is what the HTTP server does when the caller leaves.
    pub(super) async fn strike(&self, target: Target, noticed: impl FnOnce()) -> Struck {
        let mut cleared = self.cleared.subscribe();
        cleared.mark_unchanged();
        let faults = self.take(target);
        if !faults.is_empty() {
            noticed();
        }
        let mut struck = Struck::default();
        for fault in faults {
            match fault {
                Fault::LauncherHang | Fault::StsHang | Fault::IamHang | Fault::KmsHang => {
                    // The sender lives in `self`, so the only way on is a clearing.
                    if cleared.changed().await.is_ok() {
                        return Struck::default();
                    }
                }
                Fault::StsSlow { delay_ms } | Fault::KmsSlow { delay_ms } => {
                    tokio::time::sleep(Duration::from_millis(delay_ms)).await;
                }
                Fault::LauncherStatus { status }
                | Fault::StsStatus { status }
                | Fault::IamStatus { status }
                | Fault::KmsStatus { status } => {
                    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
                    struck.status = Some(status);
                }
                Fault::StsGarbage => struck.garbage = true,
                Fault::KmsCorruptCrc => struck.corrupt_crc = true,
                Fault::KmsKeyDisabled => struck.key_disabled = true,
                Fault::KmsPermissionDenied => struck.permission_denied = true,
            }
        }
        struck
    }

    /// Whether the attestation service is down, without striking anything: for the launcher's own refresh.
    pub(super) fn attestation_is_down(&self) -> bool {
        self.lock().iter().any(|active| active.fault.target() == Target::Launcher)
    }

    fn push(&self, active: Active) {
        self.lock().push(active);
    }

    /// The faults for `target`, each counted as struck.
    fn take(&self, target: Target) -> Vec<Fault> {
        let mut taken = Vec::new();
        self.lock().retain_mut(|active| {
            if active.fault.target() != target {
                return true;
            }
            taken.push(active.fault);
            match &mut active.times {
                Some(times) => {
                    *times -= 1;
                    *times > 0
                }
                None => true,
            }
        });
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fault {
    /// Whether its numbers are in their ranges.
    pub(super) fn is_valid(self) -> bool {
        match self {
            Self::LauncherStatus { status }
            | Self::StsStatus { status }
            | Self::IamStatus { status }
            | Self::KmsStatus { status } => (400..=599).contains(&status),
            _ => true,
        }
    }

    fn target(self) -> Target {
        match self {
            Self::LauncherStatus { .. } | Self::LauncherHang => Target::Launcher,
            Self::StsStatus { .. } | Self::StsHang | Self::StsSlow { .. } | Self::StsGarbage => Target::Sts,
            Self::IamStatus { .. } | Self::IamHang => Target::Iam,
            Self::KmsStatus { .. }
            | Self::KmsHang
            | Self::KmsSlow { .. }
            | Self::KmsCorruptCrc
            | Self::KmsKeyDisabled
            | Self::KmsPermissionDenied => Target::Kms,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn a_counted_fault_strikes_that_often_and_only_its_target() {
        let faults = Faults::new();
        faults.inject_next(2, Fault::KmsStatus { status: 503 });
        assert_eq!(faults.strike(Target::Sts, || panic!("not its target")).await, Struck::default());
        for _ in 0..2 {
            let struck = faults.strike(Target::Kms, || ()).await;
            assert_eq!(struck.status, Some(StatusCode::SERVICE_UNAVAILABLE));
        }
        assert_eq!(faults.strike(Target::Kms, || ()).await, Struck::default());
        assert!(faults.active().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_delay_delays() {
        let faults = Faults::new();
        faults.inject(Fault::KmsSlow { delay_ms: 250 });
        let before = tokio::time::Instant::now();
        faults.strike(Target::Kms, || ()).await;
        assert_eq!(before.elapsed(), Duration::from_millis(250));
    }

    #[tokio::test]
    async fn what_hangs_goes_on_once_the_fault_is_cleared() {
        let faults = Arc::new(Faults::new());
        faults.inject(Fault::StsHang);
        let (noticed, struck) = tokio::sync::oneshot::channel();
        let waiting = tokio::spawn({
            let faults = Arc::clone(&faults);
            async move { faults.strike(Target::Sts, || noticed.send(()).unwrap()).await }
        });
        struck.await.unwrap();
        assert!(!waiting.is_finished());
        faults.clear();
        assert_eq!(waiting.await.unwrap(), Struck::default());
    }

    #[test]
    fn faults_are_written_flat() {
        let fault: Fault = serde_json::from_str(r#"{"fault":"kms_slow","delay_ms":7}"#).unwrap();
        assert_eq!(fault, Fault::KmsSlow { delay_ms: 7 });
        assert!(serde_json::from_str::<Fault>(r#"{"fault":"kms_slow","delay":7}"#).is_err());
        let active = Active { fault: Fault::KmsHang, times: Some(1) };
        assert_eq!(serde_json::to_string(&active).unwrap(), r#"{"fault":"kms_hang","times":1}"#);
    }
}

//! The flags of `--cover`.

use std::time::Duration;

use clap::{Args, value_parser};

use super::beats::Rhythm;

/// As typed.
#[derive(Args)]
pub(in crate::proxy) struct CoverArgs {
    /// While the user types, send sealed requests at a fixed rhythm, empty ones included: their times then show no keystrokes
    #[arg(long, env = "CODESEAL_PROXY_COVER", help_heading = "Cover traffic")]
    cover: bool,

    /// With --cover: interval between two requests, in milliseconds
    #[arg(long, env = "CODESEAL_PROXY_COVER_INTERVAL_MS", value_name = "N", default_value_t = 300,
        value_parser = value_parser!(u64).range(50..=10_000), help_heading = "Cover traffic")]
    cover_interval_ms: u64,

    /// With --cover: time without a request of an editor after which the rhythm ends; it goes on for up to as long again
    #[arg(long, env = "CODESEAL_PROXY_COVER_IDLE_SECS", value_name = "SECONDS", default_value_t = 20,
        value_parser = value_parser!(u64).range(1..=3600), help_heading = "Cover traffic")]
    cover_idle_secs: u64,
}

impl CoverArgs {
    /// The rhythm, if requests are to leave at one.
    pub(in crate::proxy) fn resolve(&self) -> Option<Rhythm> {
        self.cover.then_some(Rhythm {
            interval: Duration::from_millis(self.cover_interval_ms),
            idle: Duration::from_secs(self.cover_idle_secs),
        })
    }
}

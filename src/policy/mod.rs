//! Policy as code: the launch policy of an image, and the attribute condition that releases the key.
//!
//! [`lint`] reads an image's labels as the launcher of Confidential Space does. [`Condition`] evaluates an attribute
//! condition as the token service does, [`conditions`] writes one, [`what_if`] asks it about workloads that must not
//! get the key. Pure: texts in, values out.
//!
//! Allowed modules: attestation.
//! Forbidden: axum, google_cloud_*, hyper, reqwest, std::env, std::fs, std::net, std::process, tokio.

#[cfg(feature = "client")]
mod command;
mod condition;
pub mod conditions;
mod dockerfile;
mod image;
mod labels;
pub mod lint;
mod names;
pub mod what_if;

#[cfg(feature = "client")]
pub use self::command::{ClaimsError, PolicyCommand, claims_of};
pub use self::condition::{ClauseVerdict, Condition, ConditionError, LookedAt, Unmet, Verdict};
pub use self::image::{Command, Image, ImageError, Set};

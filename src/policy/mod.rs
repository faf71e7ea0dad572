//! Policy as code: the launch policy of an image, and the attribute condition that releases the key.
//!
//! [`lint`] reads an image's labels as the launcher of Confidential Space does. [`Condition`] evaluates an attribute
//! condition as the token service does, [`conditions`] writes one, [`what_if`] asks it about workloads that must not
//! get the key. Pure: texts in, values out.
//!
//! Allowed modules: attestation.
//! Forbidden: axum, google_cloud_*, hyper, reqwest, std::env, std::fs, std::net, std::process, tokio.

#[cfg(feature = "client")]
mod annotate;
mod cel;
#[cfg(feature = "client")]
mod command;
mod condition;
pub mod conditions;
mod decide;
mod dockerfile;
pub mod explain;
mod image;
mod labels;
pub mod lint;
mod mapping;
mod names;
mod paths;
mod read;
mod rejected;
#[cfg(feature = "client")]
mod report;
#[cfg(feature = "client")]
mod result;
pub mod what_if;

pub use self::cel::{Reason, Undecided};
#[cfg(feature = "client")]
pub use self::command::{ClaimsError, PolicyCommand, claims_of};
pub use self::condition::{ClauseVerdict, Condition, LookedAt, Unmet};
pub use self::decide::{Decision, Verdict};
pub use self::image::{Command, Image, ImageError, Set};
pub use self::mapping::{AttributeMapping, MappingError};
pub use self::rejected::{ConditionError, Position};
#[cfg(feature = "client")]
pub use self::result::{ConditionFile, Format, PolicyOutcome};

//! The connection to each server: verified and keyed in the background, never on the path of a request.
//!
//! A request reads the state and goes on, or is refused at once.

mod fleet;
mod keeper;
mod pins;
mod state;
mod trouble;

pub(super) use self::fleet::Fleet;
pub(super) use self::keeper::{Terms, Upstream};
pub use self::state::Timing;
pub(super) use self::state::{State, Warm, now};

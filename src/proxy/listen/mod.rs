//! Loopback is no boundary: any page and any account of the machine can connect, so each request is looked at first.

mod accept;
mod bind;
mod guard;
mod inherit;
mod peer;
mod slots;
mod socket;
mod token;

pub(super) use self::accept::{AcceptConfig, serve};
pub(super) use self::bind::{Unbound, bind};
pub(super) use self::guard::{Guard, Pass, page};
pub use self::inherit::Inherited;
pub(super) use self::peer::Peer;
pub(super) use self::slots::{Activity, Busy};
pub use self::socket::ListenError;
pub use self::token::{AccessToken, TokenError};

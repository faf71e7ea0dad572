//! How many connections the process can have open: file descriptors are shared by both listeners, the key service, the
//! launcher's socket and the model's files.

use rustix::process::{Resource, Rlimit};

use crate::telemetry::{self, Event};

/// Connections of the admin listener. They count apart from the public ones, so that these cannot take all.
pub(crate) const ADMIN_CONNECTIONS: usize = 16;
/// Kept free for everything that is no connection of a client: KMS, token exchange, launcher, files.
const RESERVE: u64 = 32 - ADMIN_CONNECTIONS as u64;

/// Raises the limit of open files as far as the system allows, and returns how many public connections fit below it:
/// `configured`, or fewer, which is logged.
pub(crate) fn public_connections(configured: usize) -> usize {
    let Some(descriptors) = raise_limit() else { return configured };
    let allowed = fit(configured, descriptors, open_descriptors());
    if allowed < configured {
        telemetry::emit(Event::ConnectionsLimited { configured, allowed, descriptors });
    }
    allowed
}

/// The limit of open files after raising it; none if there is no limit.
fn raise_limit() -> Option<u64> {
    let limit = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

/// Descriptors that are open now: listeners, runtime, standard streams.
fn open_descriptors() -> u64 {
    std::fs::read_dir("/proc/self/fd").map_or(RESERVE, |entries| entries.count() as u64)
}

/// At least one: a server without connections is of no use.
fn fit(configured: usize, descriptors: u64, open: u64) -> usize {
    let left = descriptors.saturating_sub(open + RESERVE + ADMIN_CONNECTIONS as u64);
    configured.min(usize::try_from(left).unwrap_or(usize::MAX)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_everything_else() {
        assert_eq!(fit(512, 1024, 20), 512);
        assert_eq!(fit(512, 256, 20), 204);
        assert_eq!(fit(512, 64, 20), 12);
        assert_eq!(fit(512, 20, 20), 1);
        assert_eq!(fit(512, 0, u64::from(u32::MAX)), 1);
    }
}

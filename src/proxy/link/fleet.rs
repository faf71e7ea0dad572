//! Several servers: one is used until it fails, so that its prefix cache stays warm; then the next that is ready.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::keeper::Upstream;
use super::state::Warm;
use crate::proxy::error::Failure;

/// All servers, each with a session of its own.
#[derive(Debug)]
pub(crate) struct Fleet {
    servers: Vec<Arc<Upstream>>,
    /// The one that was used last.
    current: AtomicUsize,
}

impl Fleet {
    /// `servers` in the order of preference.
    pub(crate) fn new(servers: Vec<Arc<Upstream>>) -> Self {
        Self { servers, current: AtomicUsize::new(0) }
    }

    /// All of them.
    pub(crate) fn servers(&self) -> &[Arc<Upstream>] {
        &self.servers
    }

    /// Tells the server that is used that a client is there.
    pub(crate) fn touch(&self) {
        if let Some(server) = self.servers.get(self.current.load(Ordering::Relaxed)) {
            server.touch();
        }
    }

    /// A server with a session that may be used: the one of the last request, if it has one.
    ///
    /// # Errors
    /// Why the preferred one has none.
    pub(crate) fn pick(&self) -> Result<(Arc<Upstream>, Arc<Warm>), Failure> {
        let start = self.current.load(Ordering::Relaxed);
        let mut why = None;
        for offset in 0..self.servers.len() {
            let index = (start + offset) % self.servers.len().max(1);
            let Some(server) = self.servers.get(index) else { continue };
            match server.session() {
                Ok(warm) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((Arc::clone(server), warm));
                }
                Err(failure) => {
                    why.get_or_insert(failure);
                }
            }
        }
        Err(why.unwrap_or(Failure::Internal("no server is configured")))
    }
}

//! Everything that the operator of the machine can see: the wire, the log, the metrics.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::DemoError;
use crate::client::Wire;
use crate::telemetry::{self, LogFormat, LogLevel};

/// How long the metrics may take; they come from this machine.
const METRICS_TIMEOUT: Duration = Duration::from_secs(5);

/// What was seen so far.
#[derive(Default)]
pub(super) struct Operator {
    log: Log,
    /// Bodies of requests, in order.
    pub(super) sent: Vec<String>,
    /// Bodies of answers, in order.
    pub(super) received: Vec<String>,
}

/// The servers' log, kept in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Operator {
    /// Watches this process's log from here on.
    pub(super) fn start() -> Result<Self, DemoError> {
        let operator = Self::default();
        let log = operator.log.clone();
        telemetry::init_to(LogFormat::Text, LogLevel::Trace, move || log.clone())?;
        Ok(operator)
    }

    /// Notes what went over the wire.
    pub(super) fn note(&mut self, event: Wire<'_>) {
        let (list, bytes) = match event {
            Wire::Sent(bytes) => (&mut self.sent, bytes),
            Wire::Received(bytes) => (&mut self.received, bytes),
        };
        list.push(String::from_utf8_lossy(bytes).into_owned());
    }

    /// The lines of the log that came since the last call.
    pub(super) fn take_log(&self) -> String {
        let bytes = std::mem::take(&mut *self.log.0.lock().unwrap_or_else(PoisonError::into_inner));
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// All metrics of the server whose admin port is at `address`.
pub(super) async fn metrics(address: std::net::SocketAddr) -> Result<String, DemoError> {
    let unreadable = |_| DemoError::Unexpected("the metrics could not be read");
    let http = reqwest::Client::builder().no_proxy().timeout(METRICS_TIMEOUT).tls_certs_only([]);
    let http = http.build().map_err(unreadable)?;
    let answer = http.get(format!("http://{address}/metrics")).send().await.map_err(unreadable)?;
    answer.text().await.map_err(unreadable)
}

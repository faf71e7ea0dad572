//! The log: one line per event on stdout, and no lines of libraries.
//!
//! Libraries log too, and at TRACE some of them log what they send and receive: a DEK in a KMS answer, a prompt in
//! a body. So only events with this program's own target pass, whatever the level, and `RUST_LOG` is not read.
//!
//! A reader of stdout that stops must not stop the server: lines go through a bounded queue to a thread of their own
//! (`queue`), and are dropped while the queue is full.

use std::fmt;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Metadata, Subscriber};
use tracing_subscriber::Layer as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt as _;

use super::events::TARGET;
use super::queue::{self, LogGuard};

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `TIME LEVEL event key=value …`
    #[default]
    Text,
    /// One JSON object per line, with the `severity` that Cloud Logging looks for.
    Json,
}

/// How much is logged. There is nothing quieter than `info`: its lines are few, and scripts wait for `ready`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogLevel {
    /// One line per change of state and per request.
    #[default]
    Info,
    /// Progress of long steps as well.
    Debug,
    /// Everything that there is; libraries stay silent.
    Trace,
}

/// The log could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("the log is already set up in this process")]
pub struct LoggingError;

/// Sends events to stdout from here on, through a queue that never blocks. Dropping the guard writes what is still in
/// the queue, within a time bound.
///
/// # Errors
/// The process already has a log.
pub fn init(format: LogFormat, level: LogLevel) -> Result<LogGuard, LoggingError> {
    let (writer, guard) = queue::stdout();
    init_to(format, level, writer)?;
    Ok(guard)
}

/// Sends events to `writer` from here on.
///
/// # Errors
/// The process already has a log.
pub fn init_to<W>(format: LogFormat, level: LogLevel, writer: W) -> Result<(), LoggingError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    subscriber(format, level, writer).try_init().map_err(|_| LoggingError)
}

fn subscriber<W>(format: LogFormat, level: LogLevel, writer: W) -> impl Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let level = match level {
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let ours = move |metadata: &Metadata<'_>| metadata.target() == TARGET && *metadata.level() <= level;
    let lines = tracing_subscriber::fmt::layer()
        .event_format(Lines(format))
        .with_writer(writer)
        // A closed stdout must not turn into a panic on stderr.
        .log_internal_errors(false)
        .with_filter(filter_fn(ours));
    tracing_subscriber::registry().with(lines)
}

/// Renders the one field that an event has.
struct Lines(LogFormat);

impl<S, N> FormatEvent<S, N> for Lines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &tracing::Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let level = event.metadata().level();
        match self.0 {
            LogFormat::Text => {
                write!(writer, "{time} {level:>5} ")?;
                fields.write_text(&mut writer)?;
            }
            LogFormat::Json => {
                let severity = if *level == tracing::Level::WARN { "WARNING" } else { level.as_str() };
                fields.0.insert("severity".into(), severity.into());
                fields.0.insert("time".into(), time.into());
                write!(writer, "{}", Value::Object(fields.0))?;
            }
        }
        writeln!(writer)
    }
}

/// What [`super::emit`] puts into an event's field `event`.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn write_text(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let name = self.0.get("event").and_then(Value::as_str).unwrap_or_default();
        write!(writer, "{name}")?;
        for (key, value) in self.0.iter().filter(|(key, _)| *key != "event") {
            match value {
                Value::String(text) => write!(writer, " {key}={text}")?,
                other => write!(writer, " {key}={other}")?,
            }
        }
        Ok(())
    }
}

impl Visit for Fields {
    fn record_str(&mut self, _: &Field, json: &str) {
        if let Ok(fields) = serde_json::from_str(json) {
            self.0 = fields;
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn fmt::Debug) {}
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::super::events::{Event, emit};
    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: LogFormat, level: LogLevel, work: impl FnOnce()) -> String {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        tracing::subscriber::with_default(subscriber(format, level, move || writer.clone()), work);
        String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn libraries_stay_silent_at_every_level() {
        let log = logged(LogFormat::Text, LogLevel::Trace, || {
            tracing::event!(target: "h2::codec", tracing::Level::ERROR, "canary");
            tracing::event!(target: "codeseal_but_not_quite", tracing::Level::TRACE, "canary");
            tracing::event!(
                tracing::Level::INFO,
                "a module of this program that has not gone through emit: canary"
            );
        });
        assert_eq!(log, "");
    }

    #[test]
    fn a_line_of_text_has_a_time_a_level_and_fields() {
        let log =
            logged(LogFormat::Text, LogLevel::Info, || emit(Event::Draining { running: 2, limit_secs: 20 }));
        assert!(log.ends_with("Z  INFO draining limit_secs=20 running=2\n"), "{log}");
    }

    #[test]
    fn a_line_of_json_has_a_severity_that_cloud_logging_knows() {
        let log = logged(LogFormat::Json, LogLevel::Info, || {
            emit(Event::AttestationLost { reason: "expired" });
        });
        let line: Value = serde_json::from_str(&log).unwrap();
        assert_eq!((&line["severity"], &line["event"]), (&"WARNING".into(), &"attestation_lost".into()));
    }

    #[test]
    fn the_level_leaves_details_out() {
        let fetching = || emit(Event::ModelDownload { percent: 30 });
        assert_eq!(logged(LogFormat::Text, LogLevel::Info, fetching), "");
        assert!(logged(LogFormat::Text, LogLevel::Debug, fetching).contains("model_download percent=30"));
    }
}

//! Keeps the process's memory to itself: no core dump, no debugger, no swap if that is allowed, no panic message.
//!
//! Each step is best effort, because a container may forbid it; which ones worked is logged.

use std::panic::PanicHookInfo;

use rustix::mm::MlockAllFlags;
use rustix::process::{DumpableBehavior, Resource, Rlimit};

use super::events::{Event, emit};
use super::labels::Hardening;

/// Applies every step that the system allows.
pub fn harden() -> Hardening {
    let no_core = Rlimit { current: Some(0), maximum: Some(0) };
    let unlimited = rustix::process::getrlimit(Resource::Memlock).current.is_none();
    // ONFAULT: a driver reserves far more address space than there is memory.
    let lock = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    Hardening {
        core_dumps_off: rustix::process::setrlimit(Resource::Core, no_core).is_ok(),
        undumpable: rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).is_ok(),
        memory_locked: unlimited && rustix::mm::mlockall(lock).is_ok(),
    }
}

/// From here on a panic logs where it happened and never what it said: the message may quote a prompt.
pub fn redact_panics() {
    std::panic::set_hook(Box::new(|info: &PanicHookInfo<'_>| {
        let Some(location) = info.location() else { return };
        emit(Event::Panicked { file: file_name(location.file()).into(), line: location.line() });
    }));
}

/// The last component: the rest is a path of the machine that built this.
fn file_name(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_location_does_not_tell_where_it_was_built() {
        assert_eq!(file_name("/home/someone/registry/src/lib.rs"), "lib.rs");
        assert_eq!(file_name("lib.rs"), "lib.rs");
    }

    /// Run as a process of its own: the hook and the log are the whole process's.
    #[test]
    #[ignore = "the child of the test below"]
    fn child_that_panics() {
        let (format, level) = (crate::telemetry::LogFormat::Text, crate::telemetry::LogLevel::Trace);
        let _log = crate::telemetry::init(format, level).unwrap();
        redact_panics();
        std::panic::catch_unwind(|| panic!("canary {}", 7)).unwrap_err();
    }

    #[test]
    fn a_panic_says_where_and_never_what() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .env_clear()
            .args(["--ignored", "--exact", "--nocapture", "telemetry::hardening::tests::child_that_panics"])
            .env("RUST_BACKTRACE", "full")
            .output()
            .unwrap();
        let output = [child.stdout, child.stderr].concat();
        let output = String::from_utf8(output).unwrap();
        assert!(
            child.status.success() && output.contains("ERROR panicked file=hardening.rs line="),
            "{output}"
        );
        assert!(!output.contains("canary"), "{output}");
    }

    #[test]
    #[ignore = "the child of the test below"]
    fn child_that_hardens() {
        let done = harden();
        assert!(done.core_dumps_off && done.undumpable);
        assert_eq!(rustix::process::getrlimit(Resource::Core).maximum, Some(0));
        // What belongs to an undumpable process belongs to root, or cannot be read at all.
        assert_eq!(rustix::process::dumpable_behavior().unwrap(), DumpableBehavior::NotDumpable);
    }

    #[test]
    fn the_process_leaves_no_dump_behind() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .env_clear()
            .args(["--ignored", "--exact", "telemetry::hardening::tests::child_that_hardens"])
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    }
}

//! Threads that let another one go first.
//!
//! The SHA-256 of a file is one thread's work, and takes longer than reading the file and packing it as it is: with few cores a
//! start takes longer by as much as that thread is kept from running. So those that pack and tokenize have a lower priority.

/// Their nice value: they get about a third of the time of a core that another thread wants as well.
#[cfg(target_os = "linux")]
const NICE: i32 = 5;

/// Lowers the priority of this thread, for as long as it lives: a process may not raise it again. Only Linux has priorities of
/// threads; elsewhere nothing changes.
pub(crate) fn lower() {
    #[cfg(target_os = "linux")]
    rustix::process::nice(NICE).ok();
}

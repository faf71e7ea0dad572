//! A timer that is not rounded to milliseconds.
//!
//! The runtime's own timers fire on whole milliseconds since it started. A departure at such a time would show, in its fraction of a
//! millisecond, how late the thread was that sent it. On Linux the kernel wakes the thread that waits for the runtime's sockets at
//! the very time, so that one wake-up is all that a departure costs.

use std::io;

use tokio::time::Instant;

#[cfg(target_os = "linux")]
pub(super) use self::linux::Timer;
#[cfg(not(target_os = "linux"))]
pub(super) use self::portable::Timer;

#[cfg(target_os = "linux")]
mod linux {
    use std::os::fd::OwnedFd;

    use rustix::time::{
        Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
        timerfd_settime,
    };
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    use super::{Instant, io};

    /// A file descriptor that becomes readable at the end of a wait.
    #[derive(Debug)]
    pub(in super::super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        /// # Errors
        /// The process has no file descriptor left.
        #[expect(
            deprecated,
            reason = "tokio 1.54's other constructor is unsafe, for types that do not own one descriptor as OwnedFd does"
        )]
        pub(in super::super) fn new() -> io::Result<Self> {
            let fd =
                timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
            AsyncFd::with_interest(fd, Interest::READABLE).map(Self)
        }

        /// Waits until `at`. A wait that is dropped leaves nothing behind.
        pub(in super::super) async fn wait_until(&self, at: Instant) -> io::Result<()> {
            let rest = at.saturating_duration_since(Instant::now());
            // Zero would stop the timer.
            if rest.is_zero() {
                return Ok(());
            }
            let it_value = Timespec::try_from(rest).map_err(|_| io::ErrorKind::InvalidInput)?;
            let once = Itimerspec { it_interval: Timespec::default(), it_value };
            // Takes back an end that was not waited for.
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
            self.0.async_io(Interest::READABLE, |fd| Ok(rustix::io::read(fd, &mut [0; 8])?)).await?;
            Ok(())
        }
    }
}

#[cfg(not(target_os = "linux"))]
mod portable {
    use super::{Instant, io};

    /// The runtime's timer.
    #[derive(Debug)]
    pub(in super::super) struct Timer;

    impl Timer {
        /// # Errors
        /// None.
        pub(in super::super) fn new() -> io::Result<Self> {
            Ok(Self)
        }

        /// Waits until `at`, up to some milliseconds longer.
        pub(in super::super) async fn wait_until(&self, at: Instant) -> io::Result<()> {
            tokio::time::sleep_until(at).await;
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_wait_ends_at_its_time_and_not_before() {
        let timer = Timer::new().unwrap();
        for wait in [Duration::from_nanos(1), Duration::from_micros(300), Duration::from_millis(12)] {
            let at = Instant::now() + wait;
            timer.wait_until(at).await.unwrap();
            assert!(Instant::now() >= at, "{wait:?}");
        }
        let past = Instant::now();
        timer.wait_until(past).await.unwrap();
    }

    #[tokio::test]
    async fn a_wait_that_was_dropped_does_not_end_the_next_one() {
        let timer = Timer::new().unwrap();
        let begun = timer.wait_until(Instant::now() + Duration::from_millis(1)).now_or_never();
        assert!(begun.is_none());
        // Until it would have ended.
        Timer::new().unwrap().wait_until(Instant::now() + Duration::from_millis(2)).await.unwrap();
        let at = Instant::now() + Duration::from_millis(8);
        timer.wait_until(at).await.unwrap();
        assert!(Instant::now() >= at);
    }
}

//! When requests are sent: after the last answer or text of each client (closed loop), or at random times (open loop).

use std::cell::Cell;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::prompts::Prompts;
use super::random::Random;
use super::request::{Manner, Sample, send};
use crate::client::Client;

/// The most requests of an open loop that are under way: what is beyond is not sent, and says so.
const MAX_IN_FLIGHT: usize = 1024;
/// The stream of random numbers that arrivals are drawn from; prompts use those of their own numbers.
const ARRIVALS: u64 = u64::MAX - 1;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Loop {
    /// Closed loop: each client sends its next request after its last answer.
    Closed {
        /// How many.
        clients: usize,
        /// What a client waits for before its next request.
        after: After,
    },
    /// Open loop: requests arrive as a Poisson process, independent of the answers.
    Open {
        /// How many a second on average.
        rate: f64,
    },
}

/// What a client of a closed loop waits for before its next request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum After {
    /// The last frame, as `codeseal complete` does
    Answer,
    /// The end of the text, as `codeseal proxy` does; the frames that follow are read beside the next request
    Text,
}

/// When to stop sending.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) requests: usize,
    pub(super) duration: Duration,
}

/// The requests of a load test, and the clients that send them.
pub(super) struct Load<'a> {
    /// One for each session. Never empty.
    pub(super) clients: &'a [Client],
    pub(super) prompts: &'a Prompts,
    pub(super) manner: &'a Manner,
    pub(super) bounds: Bounds,
    pub(super) seed: u64,
    /// When the last text ended.
    pub(super) last_text: Cell<Option<Instant>>,
}

impl Load<'_> {
    /// Sends everything and gives what comes of it to `done`. Ends when the last answer has come.
    pub(super) async fn run(&self, kind: Loop, done: &dyn Fn(Sample)) {
        match kind {
            Loop::Closed { clients, after } => self.closed(clients, after, done).await,
            Loop::Open { rate } => self.open(rate, done).await,
        }
    }

    async fn closed(&self, clients: usize, after: After, done: &dyn Fn(Sample)) {
        let (next, end) = (&Cell::new(0), Instant::now() + self.bounds.duration);
        let loops = (0..clients).map(|client| async move {
            let mut under_way = FuturesUnordered::new();
            loop {
                let (index, due) = (next.get(), Instant::now());
                if index >= self.bounds.requests || due >= end {
                    break;
                }
                next.set(index + 1);
                let (on, text_end) = oneshot::channel();
                let sample = self.send(client, index, due, on);
                under_way.push(async move { (index, sample.await) });
                // An answer without text ends the wait as well.
                let mut wait = Some(text_end).filter(|_| after == After::Text);
                loop {
                    let text = async {
                        match &mut wait {
                            Some(text_end) => text_end.await.is_ok(),
                            None => std::future::pending().await,
                        }
                    };
                    tokio::select! {
                        biased;
                        has_ended = text => {
                            wait = None;
                            if has_ended {
                                break;
                            }
                        }
                        Some((answered, sample)) = under_way.next() => {
                            done(sample);
                            if answered == index {
                                break;
                            }
                        }
                    }
                }
            }
            while let Some((_, sample)) = under_way.next().await {
                done(sample);
            }
        });
        join_all(loops).await;
    }

    async fn open(&self, rate: f64, done: &dyn Fn(Sample)) {
        let started = Instant::now();
        let mut under_way = FuturesUnordered::new();
        for (index, wait) in arrivals(self.seed, rate).take(self.bounds.requests).enumerate() {
            if wait >= self.bounds.duration {
                break;
            }
            let due = started + wait;
            let arrival = tokio::time::sleep_until(due);
            tokio::pin!(arrival);
            loop {
                tokio::select! {
                    biased;
                    () = &mut arrival => break,
                    Some(sample) = under_way.next() => done(sample),
                }
            }
            if under_way.len() < MAX_IN_FLIGHT {
                under_way.push(self.send(index, index, due, oneshot::channel().0));
            } else {
                done(Sample { outcome: Err("not_sent".to_owned()) });
            }
        }
        while let Some(sample) = under_way.next().await {
            done(sample);
        }
    }

    /// `text_end` is told when the text has ended.
    async fn send(&self, client: usize, index: usize, due: Instant, text_end: oneshot::Sender<()>) -> Sample {
        let text_end = Cell::new(Some(text_end));
        let on_text_end = || {
            self.last_text.set(Some(Instant::now()));
            if let Some(text_end) = text_end.take() {
                text_end.send(()).ok();
            }
        };
        match self.clients.get(client % self.clients.len().max(1)) {
            Some(client) => send(client, &self.prompts.prompt(index), self.manner, due, &on_text_end).await,
            None => Sample { outcome: Err("not_sent".to_owned()) },
        }
    }
}

/// When requests come, counted from the beginning.
fn arrivals(seed: u64, rate: f64) -> impl Iterator<Item = Duration> {
    let mut random = Random::new(seed, ARRIVALS);
    let mut now = 0.0;
    std::iter::repeat_with(move || {
        now += random.exponential(1.0 / rate);
        // Far beyond any bound, and what a `Duration` can hold.
        Duration::from_secs_f64(f64::min(now, 1e9))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_come_at_the_rate_and_the_same_every_time() {
        let times: Vec<Duration> = arrivals(5, 20.0).take(10_000).collect();
        assert!(times.is_sorted());
        let rate = times.len() as f64 / times.last().unwrap().as_secs_f64();
        assert!((rate - 20.0).abs() < 1.0, "{rate}");
        assert!(arrivals(5, 20.0).take(10_000).eq(times));
        assert_ne!(arrivals(6, 20.0).next(), arrivals(5, 20.0).next());
    }
}

//! A client's connection, watched while its request is worked on: has the client gone, or only finished sending?
//!
//! Either way the kernel reports the end of what the client sends. TCP tells the two apart only when something is sent
//! to the client: a closed socket answers with a reset. An answer always begins with the letter of `HTTP/1.1`, so
//! that letter is sent early, once, to a client that has finished sending. A client that waits gets the same bytes as
//! otherwise; one that has gone resets the connection, which cancels its request.
//!
//! hyper must be set to `half_close`: without it the end of the request's bytes ends the connection. With it, hyper
//! does not read while an answer is made, so this reads ahead, to a bound.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

/// The first byte of every status line.
const FIRST: u8 = b'H';
/// How much is read while hyper reads nothing, in bytes.
const MAX_AHEAD: usize = 16 * 1024;

/// A connection and the bytes that were read ahead.
pub(crate) struct Socket {
    stream: Arc<TcpStream>,
    exchange: Arc<Handover>,
    ahead: BytesMut,
    /// The client sends no more.
    ended: bool,
    /// The first byte of the next answer has been sent.
    begun: bool,
    /// Resolves when the connection is reset.
    reset: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// What the connection and its requests tell each other.
#[derive(Default)]
pub(crate) struct Handover {
    /// A handler works on an answer of which nothing has been written.
    working: AtomicBool,
    /// The bytes of the next request's head, as far as they came while no handler worked.
    head: Mutex<Vec<u8>>,
}

impl Handover {
    /// A request's head has been parsed: its handler begins. Returns the head's bytes; they are incomplete if a client
    /// sends several requests at once.
    pub(crate) fn begin(&self) -> Vec<u8> {
        self.working.store(true, Ordering::SeqCst);
        std::mem::take(&mut *self.head())
    }

    /// The answer is about to be written.
    pub(crate) fn finish(&self) {
        self.working.store(false, Ordering::SeqCst);
    }

    fn is_working(&self) -> bool {
        self.working.load(Ordering::SeqCst)
    }

    fn head(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, bytes: &[u8]) {
        if !self.is_working() {
            let mut head = self.head();
            let room = MAX_AHEAD.saturating_sub(head.len());
            head.extend(bytes.iter().take(room));
        }
    }
}

impl Socket {
    pub(crate) fn new(stream: TcpStream, exchange: Arc<Handover>) -> Self {
        Self {
            stream: Arc::new(stream),
            exchange,
            ahead: BytesMut::new(),
            ended: false,
            begun: false,
            reset: None,
        }
    }

    /// Fails once the client has gone.
    fn watch(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        self.read_ahead(context)?;
        if !self.ended {
            return Ok(());
        }
        if self.exchange.is_working() && !self.begun {
            // What was written before this has been taken: this is called after a flush.
            match self.stream.try_write(&[FIRST]) {
                Ok(_) => self.begun = true,
                // The client reads nothing: the next flush tries again.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        let stream = &self.stream;
        let reset = self.reset.get_or_insert_with(|| {
            let stream = Arc::clone(stream);
            Box::pin(async move {
                // The runtime ends, or the connection has: either is the end of it.
                stream.ready(Interest::ERROR).await.ok();
            })
        });
        match reset.as_mut().poll(context) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }

    fn read_ahead(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let before = (self.ahead.len(), self.ended);
        while !self.ended && self.ahead.len() < MAX_AHEAD {
            let mut buffer = [0; 4096];
            let mut buffer = ReadBuf::new(&mut buffer);
            match read(&self.stream, context, &mut buffer)? {
                Poll::Pending => break,
                Poll::Ready(()) => {
                    self.ended = buffer.filled().is_empty();
                    self.ahead.extend_from_slice(buffer.filled());
                }
            }
        }
        if before != (self.ahead.len(), self.ended) {
            // hyper may wait for just these bytes, and has been told that there are none.
            context.waker().wake_by_ref();
        }
        Ok(())
    }
}

fn read(stream: &TcpStream, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> io::Result<Poll<()>> {
    loop {
        match stream.poll_read_ready(context)? {
            Poll::Pending => return Ok(Poll::Pending),
            Poll::Ready(()) => match stream.try_read(buffer.initialize_unfilled()) {
                Ok(count) => {
                    buffer.advance(count);
                    return Ok(Poll::Ready(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            },
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buffer.filled().len();
        if !this.ahead.is_empty() {
            let count = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(this.ahead.get(..count).unwrap_or_default());
            this.ahead.advance(count);
        } else if !this.ended {
            match read(&this.stream, context, buffer) {
                Ok(read) => ready!(read),
                Err(error) => return Poll::Ready(Err(error)),
            }
            this.ended = buffer.filled().len() == before && buffer.remaining() > 0;
        }
        this.exchange.note(buffer.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let (bytes, sent) = if self.begun {
            match bytes.split_first() {
                Some((&FIRST, rest)) => (rest, 1),
                None => return Poll::Ready(Ok(0)),
                // Not an answer's first byte: what follows would be garbled.
                Some(_) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
        } else {
            (bytes, 0)
        };
        if sent == 1 && bytes.is_empty() {
            self.begun = false;
            return Poll::Ready(Ok(1));
        }
        loop {
            match ready!(self.stream.poll_write_ready(context)) {
                Ok(()) => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
            match self.stream.try_write(bytes) {
                Ok(count) => {
                    self.begun = false;
                    return Poll::Ready(Ok(count + sent));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// hyper flushes each time it has polled everything else, so this is where the client is watched.
    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.watch(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match rustix::net::shutdown(&*self.stream, rustix::net::Shutdown::Write) {
            // The client was faster.
            Ok(()) | Err(rustix::io::Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}

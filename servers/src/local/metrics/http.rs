//! The thread that serves HTTP.
//!
//! A client is any program or browser of this machine and may be slow or hostile, so everything is
//! bounded: [`MAX_CONNECTIONS`] connections, the oldest of which is closed for a new one, so that
//! no client can lock others out; a head of [`MAX_HEAD`] bytes within [`HEAD_TIMEOUT`], which is
//! also how long a connection may be idle; [`CONNECTION_TIMEOUT`] for a connection, so that a
//! client that does not read its response is closed, too. While there are no requests, the thread
//! sleeps.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{sleep, timeout};

use super::counters::Counters;
use super::site::Site;
use super::snapshot::ServerInfo;
use crate::local::group::registry::Groups;
use crate::local::limits::quota::Quotas;
use crate::log_limiter::LogLimiter;

/// How many connections may be open.
const MAX_CONNECTIONS: usize = 64;

/// How many descriptors this thread needs.
pub(crate) const DESCRIPTORS: u64 = MAX_CONNECTIONS as u64 + 8;

/// The longest request line and headers, in bytes.
const MAX_HEAD: usize = 16 * 1024;

/// How many headers a request may have.
const MAX_HEADERS: usize = 64;

/// How long the head of a request may take, from the connection or the previous response on.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);

/// How long one connection may stay open.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// How long a response may still take after that, or once the server quits.
const LAST_RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// How long accepting pauses after the system had no descriptor or memory for a connection.
const ACCEPT_RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot serve metrics on {address}: {source}. Choose another --metrics address, or port 0 for \
     a free one"
)]
pub struct MetricsError {
    address: SocketAddr,
    source: io::Error,
}

/// A listening socket that is not served yet.
#[derive(Debug)]
pub(crate) struct HttpListener {
    socket: TcpListener,
    address: SocketAddr,
}

impl HttpListener {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the address is taken, or is no address of this machine.
    pub(crate) fn bind(address: SocketAddr) -> Result<Self, MetricsError> {
        let bind = || {
            let socket = TcpListener::bind(address)?;
            socket.set_nonblocking(true)?;
            let address = socket.local_addr()?;
            Ok(Self { socket, address })
        };
        bind().map_err(|source| MetricsError { address, source })
    }

    /// Starts the thread.
    ///
    /// # Errors
    /// When the system refuses a thread.
    pub(crate) fn serve(
        self,
        info: ServerInfo,
        counters: Counters,
        groups: Arc<Groups>,
        quotas: Arc<Quotas>,
    ) -> io::Result<HttpThread> {
        let (stop, stopped) = watch::channel(());
        let site = Site::new(info, counters.all(), groups, quotas);
        let Self { socket, address } = self;
        let thread = thread::Builder::new().name("metrics".into()).spawn(move || {
            // The thread only reads, so a panic leaves no shared state inconsistent.
            match catch_unwind(AssertUnwindSafe(|| run(socket, address, site, stopped))) {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("metrics are no longer served: {error}"),
                Err(_) => {
                    tracing::error!("metrics are no longer served: their thread has panicked")
                }
            }
        })?;
        Ok(HttpThread { stop, thread })
    }
}

/// The handle of the thread, which ends when the handle is dropped.
#[derive(Debug)]
pub(crate) struct HttpThread {
    stop: watch::Sender<()>,
    thread: JoinHandle<()>,
}

impl HttpThread {
    /// Ends the thread after the responses that are under way.
    pub(crate) fn stop(self) {
        drop(self.stop);
        // The thread catches and logs a panic.
        let _ = self.thread.join();
    }
}

/// Accepts connections until the server quits.
fn run(
    socket: TcpListener,
    address: SocketAddr,
    site: Site,
    mut stopped: watch::Receiver<()>,
) -> io::Result<()> {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::from_std(socket)?;
        tracing::info!("metrics on http://{address}/");
        let site = Arc::new(site);
        let mut tasks = JoinSet::new();
        // The oldest first.
        let mut open: VecDeque<AbortHandle> = VecDeque::new();
        let (mut accept_errors, mut evictions) = (LogLimiter::default(), LogLimiter::default());
        loop {
            let next = tokio::select! {
                next = listener.accept() => next,
                _ = stopped.changed() => break,
            };
            match next {
                Ok((stream, _)) => {
                    while tasks.try_join_next().is_some() {}
                    open.retain(|connection| !connection.is_finished());
                    if open.len() >= MAX_CONNECTIONS {
                        if evictions.allow(std::time::Instant::now()) {
                            tracing::warn!(
                                "too many connections for metrics ({MAX_CONNECTIONS}): \
                                 the oldest are closed for new ones"
                            );
                        }
                        open.drain(..=open.len() - MAX_CONNECTIONS)
                            .for_each(|oldest| oldest.abort());
                    }
                    let site = Arc::clone(&site);
                    open.push_back(tasks.spawn(connection(stream, site, stopped.clone())));
                }
                Err(error) => {
                    if accept_errors.allow(std::time::Instant::now()) {
                        tracing::warn!("cannot accept connections for metrics: {error}");
                    }
                    sleep(ACCEPT_RETRY_INTERVAL).await;
                }
            }
        }
        drop(listener);
        // All connections are closing. Those still open after the timeout are dropped with the
        // runtime.
        let _ = timeout(LAST_RESPONSE_TIMEOUT * 2, async {
            while tasks.join_next().await.is_some() {}
        })
        .await;
        Ok(())
    })
}

async fn connection(stream: TcpStream, site: Arc<Site>, mut stopped: watch::Receiver<()>) {
    let service = service_fn(|request| {
        let site = Arc::clone(&site);
        async move { Ok::<_, Infallible>(site.respond(&request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .max_headers(MAX_HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Errors are the client's: clients may disconnect or send anything at any time.
    tokio::select! {
        _ = connection.as_mut() => return,
        () = sleep(CONNECTION_TIMEOUT) => {}
        _ = stopped.changed() => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(LAST_RESPONSE_TIMEOUT, connection).await;
}

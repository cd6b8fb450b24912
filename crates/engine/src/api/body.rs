//! A request's body that is heard out.
//!
//! A client that still sends when its connection is closed sees a broken pipe instead of the answer. So what a handler
//! leaves unread is read, within limits, after it has answered (as Go's server does with the first 256 KiB).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::runtime::Handle;

/// Most bytes that are heard out.
const MOST: usize = 64 << 20;
/// Longest that they are.
const LONGEST: Duration = Duration::from_secs(10);

/// The body of a request.
pub struct Heard {
    body: Option<Incoming>,
    /// Handlers may read in threads of their own: the rest is heard where the connection is served.
    runtime: Handle,
}

impl Heard {
    /// Of a request that is served by this task's runtime.
    pub fn new(body: Incoming) -> Self {
        Self { body: Some(body), runtime: Handle::current() }
    }
}

impl Body for Heard {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        let Some(mut body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        let hear = async move {
            let mut left = MOST;
            while let Some(Ok(frame)) = body.frame().await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        };
        self.runtime.spawn(async move { tokio::time::timeout(LONGEST, hear).await });
    }
}

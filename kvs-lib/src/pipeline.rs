//! Pipelines: many operations in one round trip.

use kvs_proto::v2::Version;
use kvs_proto::v2::request::Request;
use kvs_proto::v2::response::Status;

use crate::error::Error;
use crate::multiplexer::{OwnedResponse, RequestBatch};
use crate::session::results::Versioned;
use crate::session::v2::{SessionV2, check_not_refused};

/// Operations that are sent together; see [`Connection::pipeline`](crate::Connection::pipeline).
#[derive(Debug)]
#[must_use]
pub struct Pipeline<'a> {
    session: &'a SessionV2,
    requests: RequestBatch,
    operations: Vec<PipelinedOperation>,
}

/// The result of one operation of a [`Pipeline`].
#[derive(Debug)]
pub enum PipelineResult {
    /// Put: the value is stored with this version.
    Done(Version),
    /// Get: the value.
    Value(Versioned),
    /// Get: there is no such key.
    NoSuchKey,
    /// The server refused this operation. The others are not affected.
    Refused(Error),
}

#[derive(Debug, Clone, Copy)]
enum PipelinedOperation {
    Get,
    Put,
}

impl<'a> Pipeline<'a> {
    pub(crate) fn new(session: &'a SessionV2) -> Self {
        Self { session, requests: RequestBatch::default(), operations: Vec::new() }
    }

    /// Adds a [get](crate::Connection::get).
    ///
    /// # Errors
    /// [`Error::Invalid`]: the operation was not added.
    pub fn get(&mut self, key: impl AsRef<[u8]>) -> Result<&mut Self, Error> {
        let key = key.as_ref();
        self.session.check_key(key)?;
        Ok(self.push(PipelinedOperation::Get, &Request::Get(key)))
    }

    /// Adds a [put](crate::Connection::put).
    ///
    /// # Errors
    /// [`Error::Invalid`]: the operation was not added.
    pub fn put(
        &mut self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<&mut Self, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.session.state.check_open()?;
        self.session.check_key(key)?;
        self.session.check_value(value)?;
        Ok(self.push(PipelinedOperation::Put, &Request::Put { key, value, expected: None }))
    }

    /// The number of operations.
    pub fn len(&self) -> usize {
        self.requests.len()
    }

    /// Whether there are no operations.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends all operations and waits for all results, which are in the same order.
    ///
    /// # Errors
    /// [`Error::NotConnected`], or an error that [closes](Error::closes) the connection: then any
    /// number of the operations may have been carried out.
    pub fn run(self) -> Result<Vec<PipelineResult>, Error> {
        let Self { session, requests, operations } = self;
        session.state.check_open()?;
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let replies = session.call_all(requests, session.state.deadline())?;
        Ok(replies.into_iter().zip(operations).map(result).collect())
    }

    fn push(&mut self, operation: PipelinedOperation, request: &Request<'_>) -> &mut Self {
        self.requests.push(request);
        self.operations.push(operation);
        self
    }
}

fn result((reply, operation): (OwnedResponse, PipelinedOperation)) -> PipelineResult {
    let reply = match check_not_refused(reply) {
        Ok(reply) => reply,
        Err(refusal) => return PipelineResult::Refused(refusal),
    };
    match (reply.status, operation) {
        (Status::Ok, PipelinedOperation::Get) => {
            PipelineResult::Value(Versioned { value: reply.body, version: reply.version })
        }
        (Status::Ok, PipelinedOperation::Put) => PipelineResult::Done(reply.version),
        _ => PipelineResult::NoSuchKey,
    }
}

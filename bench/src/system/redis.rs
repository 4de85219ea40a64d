//! Redis through hiredis, its C client library, over a UNIX socket.
//!
//! Only what is needed is declared here, by hand. hiredis changed `redisReply` and `redisContext`
//! with its version 1.0; `build.rs` finds the version and sets `hiredis_1`. All of the `unsafe` is
//! in [`Redis`] and [`Reply`]: a context is used by one thread (neither is `Send`), and a reply is
//! freed once, by [`Reply`]'s `Drop`.

use std::ffi::{CStr, CString, c_char, c_int, c_longlong, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use super::client::{Client, Pipelined, check};
use crate::error::{Error, Result, failed};

/// The version that this program was built with.
pub(crate) const VERSION: &str = env!("HIREDIS_VERSION");

const OK: c_int = 0;
const STRING: c_int = 1;
const ARRAY: c_int = 2;
const NIL: c_int = 4;
const STATUS: c_int = 5;
const ERROR: c_int = 6;

/// The first fields of `redisContext`; the rest is opaque.
#[repr(C)]
struct RawContext {
    #[cfg(hiredis_1)]
    functions: *const c_void,
    error: c_int,
    message: [c_char; 128],
}

/// `redisReply` up to the last field that is read here.
#[repr(C)]
struct RawReply {
    kind: c_int,
    integer: c_longlong,
    #[cfg(hiredis_1)]
    double: f64,
    len: usize,
    text: *mut c_char,
    #[cfg(hiredis_1)]
    verbatim: [c_char; 4],
    elements: usize,
    element: *mut *mut RawReply,
}

unsafe extern "C" {
    fn redisConnectUnix(path: *const c_char) -> *mut RawContext;
    fn redisFree(context: *mut RawContext);
    fn redisAppendCommandArgv(
        context: *mut RawContext,
        count: c_int,
        arguments: *mut *const c_char,
        lengths: *const usize,
    ) -> c_int;
    fn redisGetReply(context: *mut RawContext, reply: *mut *mut c_void) -> c_int;
    fn freeReplyObject(reply: *mut c_void);
}

/// A connection.
pub(crate) struct Redis {
    context: NonNull<RawContext>,
}

/// A reply.
struct Reply(NonNull<RawReply>);

impl Redis {
    /// Connects.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let Ok(path) = CString::new(socket.as_os_str().as_bytes()) else {
            return failed(format!("redis: {}: a path with a NUL", socket.display()));
        };
        // SAFETY: `path` is a C string that lives through the call.
        let context = unsafe { redisConnectUnix(path.as_ptr()) };
        let Some(context) = NonNull::new(context) else {
            return failed("redis: hiredis has no memory for a connection");
        };
        let redis = Self { context };
        redis.check("connecting")?;
        Ok(redis)
    }

    /// The error of the context, if there is one.
    fn check(&self, what: &str) -> Result<()> {
        // SAFETY: the context is valid until `redisFree` in `drop`, and begins as declared.
        let context = unsafe { self.context.as_ref() };
        if context.error == OK {
            return Ok(());
        }
        // SAFETY: hiredis ends the message with a NUL within the array.
        let message = unsafe { CStr::from_ptr(context.message.as_ptr()) };
        failed(format!("redis: {what}: {}", message.to_string_lossy()))
    }

    /// Appends a command to those that the next [`reply`](Self::reply) sends.
    pub(crate) fn append(&mut self, words: &[&[u8]]) -> Result<()> {
        const MOST: usize = 4;
        if words.len() > MOST {
            return failed("redis: a command of too many words");
        }
        let (mut arguments, mut lengths) = ([ptr::null(); MOST], [0; MOST]);
        for (n, word) in words.iter().enumerate() {
            arguments[n] = word.as_ptr().cast();
            lengths[n] = word.len();
        }
        // SAFETY: the context is valid; there are `words.len()` (at most four) pointers with a
        // length each, to words that live through the call. hiredis copies them.
        let result = unsafe {
            redisAppendCommandArgv(
                self.context.as_ptr(),
                words.len() as c_int,
                arguments.as_mut_ptr(),
                lengths.as_ptr(),
            )
        };
        if result == OK { Ok(()) } else { self.check("a command").and(failed("redis: a command")) }
    }

    /// Sends what was appended and waits for the next reply.
    fn reply(&mut self) -> Result<Reply> {
        let mut reply = ptr::null_mut();
        // SAFETY: the context is valid, and `reply` is a valid place for a pointer.
        let result = unsafe { redisGetReply(self.context.as_ptr(), &raw mut reply) };
        match NonNull::new(reply.cast()) {
            Some(reply) if result == OK => Ok(Reply(reply)),
            _ => self.check("a reply").and(failed("redis: no reply")),
        }
    }

    fn command(&mut self, words: &[&[u8]]) -> Result<Reply> {
        self.append(words)?;
        self.reply()
    }

    /// The reply to an appended get, whose value must have this length.
    pub(crate) fn taken(&mut self, key: &[u8], len: usize) -> Result<()> {
        let reply = self.reply()?;
        check("redis", key, reply.string()?.map(<[u8]>::len), len)
    }

    /// The reply to an appended put.
    pub(crate) fn done(&mut self) -> Result<()> {
        self.reply()?.expect(STATUS).map(drop)
    }

    /// Selects a database of the server.
    pub(crate) fn select(&mut self, database: usize) -> Result<()> {
        self.command(&[b"SELECT", database.to_string().as_bytes()])?.expect(STATUS).map(drop)
    }

    /// Publishes a message on the channel.
    pub(crate) fn publish(&mut self, channel: &[u8], message: &[u8]) -> Result<()> {
        self.command(&[b"PUBLISH", channel, message]).map(drop)
    }

    /// Subscribes to a channel, and waits for the confirmation.
    pub(crate) fn subscribe(&mut self, channel: &[u8]) -> Result<()> {
        self.command(&[b"SUBSCRIBE", channel])?.expect(ARRAY).map(drop)
    }

    /// Waits for the next message; `false` when the server has closed the connection.
    pub(crate) fn message(&mut self) -> bool {
        self.reply().is_ok_and(|reply| reply.elements() == 3)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // SAFETY: the context comes from `redisConnectUnix` and is freed here only.
        unsafe { redisFree(self.context.as_ptr()) };
    }
}

impl Reply {
    fn raw(&self) -> &RawReply {
        // SAFETY: it comes from `redisGetReply`, begins as declared, and lives until `drop`.
        unsafe { self.0.as_ref() }
    }

    fn elements(&self) -> usize {
        self.raw().elements
    }

    fn text(&self) -> &[u8] {
        let raw = self.raw();
        if !matches!(raw.kind, STRING | STATUS | ERROR) || raw.text.is_null() {
            return &[];
        }
        // SAFETY: replies of these kinds have `len` bytes at `text`, for as long as the reply.
        unsafe { std::slice::from_raw_parts(raw.text.cast(), raw.len) }
    }

    fn expect(&self, kind: c_int) -> Result<&Self> {
        match self.raw().kind {
            found if found == kind => Ok(self),
            ERROR => Err(Error::Failed(format!("redis: {}", self.text().escape_ascii()))),
            found => failed(format!("redis: a reply of kind {found} instead of {kind}")),
        }
    }

    fn string(&self) -> Result<Option<&[u8]>> {
        if self.raw().kind == NIL {
            return Ok(None);
        }
        self.expect(STRING).map(|reply| Some(reply.text()))
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        // SAFETY: it comes from `redisGetReply` and is freed here only.
        unsafe { freeReplyObject(self.0.as_ptr().cast()) };
    }
}

impl Client for Redis {
    fn get(&mut self, key: &[u8], len: usize) -> Result<()> {
        self.append(&[b"GET", key])?;
        self.taken(key, len)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        self.append(&[b"SET", key, value])?;
        self.done()
    }
}

impl Pipelined for Redis {
    fn batch(&mut self, keys: &[Vec<u8>], value: &[u8], is_get: bool) -> Result<()> {
        for key in keys {
            match is_get {
                true => self.append(&[b"GET", key])?,
                false => self.append(&[b"SET", key, value])?,
            }
        }
        for key in keys {
            match is_get {
                true => self.taken(key, value.len())?,
                false => self.done()?,
            }
        }
        Ok(())
    }
}

//! The functions that a program registers.

use std::ffi::{c_char, c_int, c_void};
use std::fmt;
use std::sync::Arc;

use kvs_proto::v2::Version;

use crate::disconnect::DisconnectReason;
use crate::sys::UserPointer;

/// A change of a watched key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyChange<'a> {
    /// The key.
    pub key: &'a [u8],
    /// The version of the new value, or [`NO_VERSION`](crate::NO_VERSION), 0, if the key was
    /// deleted. Watches on prefixes report every deletion; a watch on the key itself reports one
    /// only if the key was put just before. In a session of protocol v1 the version is always 0.
    pub version: Version,
}

/// The C callback of `register_callback`: it gets the key as a string.
pub(crate) type CKeyFunction = unsafe extern "C-unwind" fn(*mut c_char);

/// The C callback of `kvs_watch`: it gets the key, the version and the program's own pointer.
pub(crate) type CWatchFunction =
    unsafe extern "C-unwind" fn(*const c_void, usize, Version, *mut c_void);

/// The C callback of `kvs_on_disconnect`: it gets the program's own pointer and a code.
pub(crate) type CDisconnectFunction = unsafe extern "C-unwind" fn(*mut c_void, c_int);

/// The callback of a Rust program.
pub(crate) type ChangeClosure = dyn Fn(&KeyChange<'_>) + Send + Sync;

/// Runs when a watched key changes.
#[derive(Clone)]
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) enum WatchCallback {
    Closure(Arc<ChangeClosure>),
    CKey(CKeyFunction),
    CWatch(CWatchFunction, UserPointer),
}

/// Runs when the connection has ended.
#[cfg_attr(not(feature = "capi"), allow(dead_code))]
pub(crate) enum DisconnectHandler {
    Closure(Box<dyn FnOnce(DisconnectReason) + Send>),
    C(CDisconnectFunction, UserPointer),
}

impl fmt::Debug for WatchCallback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closure(_) => "Closure",
            Self::CKey(_) => "CKey",
            Self::CWatch(..) => "CWatch",
        })
    }
}

impl fmt::Debug for DisconnectHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closure(_) => "Closure",
            Self::C(..) => "C",
        })
    }
}

/// A C function to call, with its arguments. The key stays valid until the next function is asked
/// for, by this thread or by the one that replaced it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum CCall {
    Key(CKeyFunction, *mut c_char),
    Watch {
        function: CWatchFunction,
        key: *const c_void,
        len: usize,
        version: Version,
        user: UserPointer,
    },
    Disconnect(CDisconnectFunction, UserPointer, DisconnectReason),
}

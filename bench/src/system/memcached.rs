//! memcached through libmemcached, its C client library, over a UNIX socket.
//!
//! Only what is needed is declared here, by hand. A handle is used by one thread; what the library
//! allocates for a value is freed here at once, with C's `free`, as it asks for.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};

use super::client::{Client, check};
use crate::error::{Error, Result, failed};

const SUCCESS: c_int = 0;
const NOT_FOUND: c_int = 16;

/// `memcached_st`, opaque.
#[repr(C)]
struct Raw {
    _private: [u8; 0],
}

unsafe extern "C" {
    fn memcached_create(position: *mut Raw) -> *mut Raw;
    fn memcached_free(handle: *mut Raw);
    fn memcached_server_add_unix_socket(handle: *mut Raw, path: *const c_char) -> c_int;
    fn memcached_get(
        handle: *mut Raw,
        key: *const c_char,
        key_len: usize,
        value_len: *mut usize,
        flags: *mut u32,
        error: *mut c_int,
    ) -> *mut c_char;
    fn memcached_set(
        handle: *mut Raw,
        key: *const c_char,
        key_len: usize,
        value: *const c_char,
        value_len: usize,
        // time_t, which is a long on the systems that this is built for.
        expiration: std::ffi::c_long,
        flags: u32,
    ) -> c_int;
    fn memcached_strerror(handle: *const Raw, error: c_int) -> *const c_char;
    fn memcached_lib_version() -> *const c_char;
    fn free(memory: *mut c_void);
}

/// The version of the library.
pub(crate) fn version() -> String {
    // SAFETY: the library returns a C string that lives for ever.
    unsafe { CStr::from_ptr(memcached_lib_version()) }.to_string_lossy().into_owned()
}

/// A connection, which the library opens with the first operation.
pub(crate) struct Memcached {
    handle: NonNull<Raw>,
}

impl Memcached {
    /// For the server at this path.
    pub(crate) fn connect(socket: &Path) -> Result<Self> {
        let Ok(path) = CString::new(socket.as_os_str().as_bytes()) else {
            return failed(format!("memcached: {}: a path with a NUL", socket.display()));
        };
        // SAFETY: NULL asks the library to allocate the handle itself.
        let Some(handle) = NonNull::new(unsafe { memcached_create(ptr::null_mut()) }) else {
            return failed("memcached: libmemcached has no memory for a connection");
        };
        let memcached = Self { handle };
        // SAFETY: the handle is valid, and `path` is a C string that lives through the call, which
        // copies it.
        let code = unsafe { memcached_server_add_unix_socket(handle.as_ptr(), path.as_ptr()) };
        memcached.check("connecting", code)?;
        Ok(memcached)
    }

    fn check(&self, what: &str, code: c_int) -> Result<()> {
        if code == SUCCESS {
            return Ok(());
        }
        // SAFETY: the handle is valid; the library returns a C string that lives for ever, for any
        // code.
        let message = unsafe { CStr::from_ptr(memcached_strerror(self.handle.as_ptr(), code)) };
        Err(Error::Failed(format!("memcached: {what}: {}", message.to_string_lossy())))
    }
}

impl Drop for Memcached {
    fn drop(&mut self) {
        // SAFETY: the handle comes from `memcached_create` and is freed here only.
        unsafe { memcached_free(self.handle.as_ptr()) };
    }
}

impl Client for Memcached {
    fn get(&mut self, key: &[u8], len: usize) -> Result<()> {
        let (mut found, mut flags, mut code) = (0, 0, SUCCESS);
        // SAFETY: the handle is valid, `key` has the length given and lives through the call, and
        // the last three are places for what they take.
        let value = unsafe {
            memcached_get(
                self.handle.as_ptr(),
                key.as_ptr().cast(),
                key.len(),
                &raw mut found,
                &raw mut flags,
                &raw mut code,
            )
        };
        // SAFETY: the value, or NULL, is the caller's, from malloc; it is not used after this.
        unsafe { free(value.cast()) };
        if code == NOT_FOUND {
            return check("memcached", key, None, len);
        }
        self.check("a get", code)?;
        check("memcached", key, Some(found), len)
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        // SAFETY: the handle is valid; key and value have the lengths given and live through the
        // call.
        let code = unsafe {
            memcached_set(
                self.handle.as_ptr(),
                key.as_ptr().cast(),
                key.len(),
                value.as_ptr().cast(),
                value.len(),
                0,
                0,
            )
        };
        self.check("a put", code)
    }
}

//! What `KVS-lib.o` needs besides the six functions: `course/KVS-lib.c` stands around them there.

use std::ffi::{c_int, c_void};

use super::guard::guarded;
use super::handles::kvs_disconnect_fn;
use super::process::Process;
use crate::callbacks::Farewell;
use crate::error::{Error, Invalid};
use crate::sys::User;

/// The descriptors of the connection that `establish_connection` has made, and what is to be called with `user` when
/// it has ended other than by `close_connection`. They stay the library's.
///
/// Returns 0, or -2: it has ended already.
///
/// `main` and `callback` point to writable numbers; `ended` may be called with `user` from another thread as long as the
/// process lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_course_attach(
    main: *mut c_int,
    callback: *mut c_int,
    ended: kvs_disconnect_fn,
    user: *mut c_void,
) -> c_int {
    guarded("kvs_course_attach", || {
        let connection = Process::current().connection()?;
        let function = ended.ok_or(Error::Invalid { what: "function", why: Invalid::Null })?;
        let (main_socket, callback_socket) = connection.descriptors();
        // SAFETY: the caller promises that a number may be written there.
        unsafe { main.write(main_socket) };
        // SAFETY: likewise.
        unsafe { callback.write(callback_socket) };
        connection.set_farewell(Farewell::Function(function, User(user)))?;
        Ok(0)
    })
}

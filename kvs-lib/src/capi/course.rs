//! What `KVS-lib.o` has in place of `establish_connection`: `course/KVS-lib.c` stands around it and the other five there.

use std::ffi::{c_char, c_int, c_void};

use super::establish;
use super::guard::guarded;
use super::handles::kvs_disconnect_fn;
use crate::callbacks::Farewell;
use crate::connection::Connection;
use crate::error::{Error, Invalid};
use crate::sys::{Sockets, User};

/// `establish_connection`, which also says which sockets these are (they stay the library's), and what is to be called with
/// `user` when the connection has ended other than by `close_connection`: nothing can come between the two.
///
/// Each string is NULL or NUL-terminated; `sockets` may be written to; `ended` may be called with `user` from another
/// thread as long as the process lives.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_course_open(
    group_id: *const c_char,
    secret: *const c_char,
    sockets: *mut Sockets,
    ended: kvs_disconnect_fn,
    user: *mut c_void,
) -> c_int {
    guarded("establish_connection", || {
        let function = ended.ok_or(Error::Invalid { what: "function", why: Invalid::Null })?;
        let user = User(user);
        let mut found = None;
        let made = |connection: &Connection| {
            connection.set_farewell(Farewell::Function(function, user))?;
            found = Some(connection.sockets());
            Ok(())
        };
        // SAFETY: the caller promises that both are NULL or strings.
        let code = unsafe { establish(group_id, secret, made) }?;
        if let Some(found) = found {
            // SAFETY: the caller promises that it may be written to.
            unsafe { sockets.write(found) };
        }
        Ok(code)
    })
}

//! What `KVS-lib.o` has in place of `establish_connection`: `course/KVS-lib.c` stands around it and the other five there.

use std::ffi::{c_char, c_int, c_void};

use super::guard::guarded;
use super::handles::kvs_disconnect_fn;
use super::process::Process;
use super::string;
use crate::builder::Builder;
use crate::callbacks::Farewell;
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
        let builder = Builder::from_env();
        let user = User(user);
        let mut made = None;
        Process::current().establish(builder, |builder, deadline| {
            // SAFETY: the caller promises that both are NULL or strings; the slices do not leave this closure,
            // which is over before the call is.
            let (group, secret) =
                unsafe { (string("group name", group_id)?, string("secret", secret)?) };
            let connection = builder.open_until(group, secret, deadline)?;
            connection.set_farewell(Farewell::Function(function, user))?;
            made = Some(connection.sockets());
            Ok(connection)
        })?;
        if let Some(made) = made {
            // SAFETY: the caller promises that it may be written to.
            unsafe { sockets.write(made) };
        }
        Ok(0)
    })
}

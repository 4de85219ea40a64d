//! The function that `KVS-lib.o` has in place of `establish_connection`; `course/KVS-lib.c` wraps
//! it.
//!
//! The declarations here become the header `kvs-course.h`, which only `course/KVS-lib.c` includes:
//! the structure is not declared twice.

use std::ffi::{c_char, c_int, c_void};

use libc::sockaddr_un;

use super::establish;
use super::guard::guarded;
use super::handles::kvs_disconnect_fn;
use crate::callbacks::callback::DisconnectHandler;
use crate::connection::Connection;
use crate::error::{Error, Invalid};
use crate::sys::{ConnectionSockets, UserPointer};

/// The two sockets of a connection: descriptors, and the addresses of both ends of each.
#[allow(non_camel_case_types)]
#[repr(C)]
pub struct kvs_course_sockets {
    pub main_fd: c_int,
    pub callback_fd: c_int,
    pub own: sockaddr_un,
    pub server: sockaddr_un,
    pub own_callback: sockaddr_un,
    pub server_callback: sockaddr_un,
}

impl From<ConnectionSockets> for kvs_course_sockets {
    fn from(sockets: ConnectionSockets) -> Self {
        let [own, server, own_callback, server_callback] = sockets.addresses;
        Self {
            main_fd: sockets.main,
            callback_fd: sockets.callback,
            own,
            server,
            own_callback,
            server_callback,
        }
    }
}

/// Connect as establish_connection does, and register a function for the end of the connection
/// before anything can end it.
///
///   group_id, secret
///            as for establish_connection
///   sockets  receives the sockets after 0; the library keeps owning the descriptors
///   ended    called with `user` when the connection ends other than by close_connection, on
///            another thread, at any time until the process exits
///   user     passed to `ended`
#[unsafe(no_mangle)]
pub unsafe extern "C" fn kvs_course_open(
    group_id: *const c_char,
    secret: *const c_char,
    sockets: *mut kvs_course_sockets,
    ended: kvs_disconnect_fn,
    user: *mut c_void,
) -> c_int {
    guarded("establish_connection", || {
        let function = ended.ok_or(Error::Invalid { what: "function", why: Invalid::Null })?;
        let user = UserPointer(user);
        let mut opened = None;
        let made = |connection: &Connection| {
            connection.set_disconnect_handler(DisconnectHandler::C(function, user))?;
            opened = Some(connection.sockets());
            Ok(())
        };
        // SAFETY: the caller guarantees that both are NULL or NUL-terminated strings.
        let code = unsafe { establish(group_id, secret, made) }?;
        if let Some(opened) = opened {
            // SAFETY: the caller guarantees that `sockets` is writable.
            unsafe { sockets.write(opened.into()) };
        }
        Ok(code)
    })
}

//! Places where a test makes the library panic, to see that nothing is locked or leaked afterwards.
//!
//! They exist only in a build with `--cfg kvs_panic_points`, which no feature turns on: `tests/library_faults/panics.rs`
//! makes one for itself. In any other build [`panic_point!`] is nothing at all, which that test checks, too.

/// A place where the test build may panic.
macro_rules! panic_point {
    ($name:literal) => {
        #[cfg(kvs_panic_points)]
        crate::panic_points::pass($name);
    };
}
pub(crate) use panic_point;

#[cfg(kvs_panic_points)]
pub(crate) use test_build::pass;

#[cfg(kvs_panic_points)]
mod test_build {
    use std::ffi::{CStr, c_char, c_int};
    use std::sync::{Mutex, PoisonError};

    /// The point that is to panic, and how many times it is passed before.
    static NEXT: Mutex<Option<(String, c_int)>> = Mutex::new(None);

    /// Panics once, at the `nth` time that the point `name` is passed from now on. Returns whether the one
    /// asked for before has panicked.
    ///
    /// # Safety
    /// `name` points to a NUL-terminated string.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn kvs_panic_at(name: *const c_char, nth: c_int) -> c_int {
        // SAFETY: the caller promises it.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        let before = NEXT.lock().unwrap_or_else(PoisonError::into_inner).replace((name, nth));
        before.is_none().into()
    }

    pub(crate) fn pass(point: &str) {
        let mut next = NEXT.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((name, nth)) = next.as_mut() else { return };
        if name != point {
            return;
        }
        *nth -= 1;
        if *nth == 0 {
            *next = None;
            drop(next);
            panic!("at the panic point `{point}`");
        }
    }
}

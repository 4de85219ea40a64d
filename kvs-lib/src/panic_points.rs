//! Points at which a test makes the library panic, to check that nothing stays locked or leaks.
//!
//! They exist only in a build with `--cfg kvs_panic_points`, which no feature enables:
//! `tests/library_faults/panics.rs` makes such a build for itself. In every other build
//! [`panic_point!`] expands to nothing, which that test checks, too.

/// A point at which the test build may panic.
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

    /// The point that panics next, and how often it is still passed until then.
    static NEXT: Mutex<Option<(String, c_int)>> = Mutex::new(None);

    /// Arms the point `name`: it panics once, the `nth` time that it is passed from now on. Returns
    /// 1 if the point armed before has panicked, or none was armed; otherwise 0.
    ///
    /// # Safety
    /// `name` points to a NUL-terminated string.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn kvs_panic_at(name: *const c_char, nth: c_int) -> c_int {
        // SAFETY: the caller guarantees a NUL-terminated string.
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

//! How much memory the code under test holds: an allocator that counts while it is told to.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static COUNTS: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting.
#[derive(Debug)]
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    // The cells have neither an initializer nor a destructor, so they are there from the first allocation of
    // a thread to its last.
    if COUNTS.get() {
        HELD.set(HELD.get() + bytes);
    }
}

// SAFETY: every call is passed on as it is to the system's allocator, which keeps the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `act` and counts what it takes and gives back.
pub fn counted<T>(act: impl FnOnce() -> T) -> T {
    with(true, act)
}

/// Runs `act`, which is not part of the code under test although that calls it.
pub fn uncounted<T>(act: impl FnOnce() -> T) -> T {
    with(false, act)
}

fn with<T>(counts: bool, act: impl FnOnce() -> T) -> T {
    let before = COUNTS.replace(counts);
    let result = act();
    COUNTS.set(before);
    result
}

/// The bytes that were taken while counting and not given back, since the last [`reset`].
pub fn held() -> isize {
    HELD.get()
}

/// Begins anew.
pub fn reset() {
    HELD.set(0);
}

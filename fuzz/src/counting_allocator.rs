//! An allocator that counts the memory of the code under test.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    static ENABLED: Cell<bool> = const { Cell::new(false) };
    static ALLOCATED: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator with a counter.
#[derive(Debug)]
pub struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn count(bytes: isize) {
    // The cells have neither an initializer nor a destructor, so they are valid from the first
    // allocation of a thread to its last.
    if ENABLED.get() {
        ALLOCATED.set(ALLOCATED.get() + bytes);
    }
}

// SAFETY: every call goes unchanged to the system's allocator, which fulfils the contract.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the contract of the caller is the one that `System` requires.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as above; `pointer` came from `System`.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// Runs `act`, and counts its allocations.
pub fn counted<T>(act: impl FnOnce() -> T) -> T {
    with(true, act)
}

/// Runs `act` without counting: code of the test that the code under test calls.
pub fn uncounted<T>(act: impl FnOnce() -> T) -> T {
    with(false, act)
}

fn with<T>(counts: bool, act: impl FnOnce() -> T) -> T {
    let before = ENABLED.replace(counts);
    let result = act();
    ENABLED.set(before);
    result
}

/// The bytes that were allocated while counting and not freed, since the last [`reset`].
pub fn allocated() -> isize {
    ALLOCATED.get()
}

/// Sets the counter to 0.
pub fn reset() {
    ALLOCATED.set(0);
}

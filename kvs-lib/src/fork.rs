//! What a forked child inherits.
//!
//! A child has none of the parent's threads, and its copies of the parent's sockets are the parent's
//! conversations: it must not speak on them, and must not keep them open when the parent dies. So right
//! after `fork`, in the child, a handler closes every registered descriptor and raises the *generation*.
//! Whatever was created in an older generation is dead and must not be touched, its locks included, as
//! another thread of the parent may have held them.
//!
//! The handler runs in a process where only async-signal-safe calls are allowed: it uses atomics and
//! `close`. For the same reason nothing global in this library is behind a lock. The registry is therefore a list whose nodes are never freed, only reused.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, AtomicU32, Ordering};

use once_cell::race::OnceBool;

use crate::channel;

static GENERATION: AtomicU32 = AtomicU32::new(0);
static REGISTRY: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

const FREE: RawFd = -1;

struct Node {
    descriptor: AtomicI32,
    next: *const Node,
}

/// Changes in every forked child.
pub(crate) fn generation() -> u32 {
    GENERATION.load(Ordering::Relaxed)
}

/// Keeps what belongs to the parent, and must not even be dropped here, where leak checkers find it.
pub(crate) fn keep(inherited: impl Send + Sync + 'static) {
    static KEPT: AtomicPtr<Kept> = AtomicPtr::new(ptr::null_mut());
    struct Kept {
        _inherited: Box<dyn Send + Sync>,
        next: AtomicPtr<Kept>,
    }

    let kept = Box::leak(Box::new(Kept {
        _inherited: Box::new(inherited),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let kept: *mut Kept = kept;
    let before = KEPT.swap(kept, Ordering::AcqRel);
    // SAFETY: it was leaked just above, so it lives for ever, and nobody else follows the pointer.
    unsafe { &*kept }.next.store(before, Ordering::Release);
}

/// From now on, forked children are cleaned up. To be called before the first descriptor is opened.
pub(crate) fn watch() -> io::Result<()> {
    // Not a cell that blocks: a fork while another thread initialises it would leave it so for ever in the
    // child. Two threads may both get here; then the handler runs twice, the second time in vain.
    static WATCHING: OnceBool = OnceBool::new();
    WATCHING
        .get_or_try_init(|| {
            // SAFETY: the handler is of the right type, lives as long as the process (the library is linked with
            // `nodelete`), never unwinds (it neither allocates nor indexes), and does only what a handler may
            // do in the child of a process with threads: atomics and `close`.
            match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
                0 => Ok(true),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        })
        .map(drop)
}

unsafe extern "C" fn in_child() {
    GENERATION.fetch_add(1, Ordering::Relaxed);
    channel::forget_numbers();
    for node in nodes() {
        let descriptor = node.descriptor.swap(FREE, Ordering::Relaxed);
        if descriptor != FREE {
            // SAFETY: the number was entered by the owner of the open descriptor and is taken out before that
            // closes it, so in this child it is a copy of the owner's and nobody else's. The owner's value of
            // it exists in the child, too, but is never dropped or used: it is of an older generation. An
            // error changes nothing: there is nobody to tell.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// The entry of one descriptor: dropped, the child keeps it.
#[derive(Debug)]
pub(crate) struct Registered {
    node: &'static Node,
    descriptor: RawFd,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.descriptor.fmt(f)
    }
}

// SAFETY: `descriptor` is atomic. `next` is written only before the node is published, and only read
// afterwards; it is NULL or points to a node that is never freed.
unsafe impl Sync for Node {}

/// Closes `descriptor` in forked children for as long as the entry lives.
pub(crate) fn register(descriptor: RawFd) -> Registered {
    let free = |node: &&Node| {
        node.descriptor
            .compare_exchange(FREE, descriptor, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    };
    if let Some(node) = nodes().find(free) {
        return Registered { node, descriptor };
    }
    let new = Box::into_raw(Box::new(Node {
        descriptor: AtomicI32::new(descriptor),
        next: REGISTRY.load(Ordering::Relaxed),
    }));
    loop {
        // SAFETY: it comes from `Box::into_raw` above, and is ours alone until the exchange has succeeded, when this
        // loop ends.
        let expected = unsafe { (*new).next.cast_mut() };
        match REGISTRY.compare_exchange(expected, new, Ordering::Release, Ordering::Relaxed) {
            // SAFETY: it is published, so never freed from now on, and only read but for its atomic.
            Ok(_) => return Registered { node: unsafe { &*new }, descriptor },
            // SAFETY: the exchange has failed, so it is still ours alone, and no reference to it exists.
            Err(head) => unsafe { (*new).next = head },
        }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        // In a forked child the handler has freed it already, and it may be in use again.
        let _ = self.node.descriptor.compare_exchange(
            self.descriptor,
            FREE,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
    }
}

fn nodes() -> impl Iterator<Item = &'static Node> {
    let mut next = REGISTRY.load(Ordering::Acquire).cast_const();
    std::iter::from_fn(move || {
        // SAFETY: `next` is NULL or points to a published node. Such nodes are leaked, so each lives for ever. Each
        // was complete before it was published (Release), which we have seen (Acquire): that of the head
        // directly; those of the others because every later exchange of the head continues the release
        // sequence of the earlier ones.
        let node: &'static Node = unsafe { next.as_ref() }?;
        next = node.next;
        Some(node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_reused() {
        // Other tests register and free entries at the same time, so one of many tries must meet the entry
        // that it has just freed.
        let reused = (0..1000).any(|_| {
            let first = register(1_000_001);
            let place = ptr::from_ref(first.node);
            drop(first);
            ptr::eq(place, register(1_000_002).node)
        });
        assert!(reused);
    }
}

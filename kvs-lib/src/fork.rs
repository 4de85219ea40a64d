//! Cleaning up in forked children.
//!
//! A forked child has none of its parent's threads, and its copies of the parent's sockets belong
//! to the parent's connections: the child must not send on them, and must not keep them open when
//! the parent dies. So a handler runs in the child right after `fork`. It closes every registered
//! descriptor and starts a new [generation](crate::generation).
//!
//! In the child of a process with threads only async-signal-safe calls are allowed: the handler
//! uses atomics and `close`. For the same reason no global state of this library is behind a lock.
//! The registry is a list whose nodes are never freed, only reused.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicI32, AtomicPtr, Ordering};

use once_cell::race::OnceBool;

use crate::{client_number, generation};

static REGISTRY: AtomicPtr<Node> = AtomicPtr::new(ptr::null_mut());

const FREE: RawFd = -1;

struct Node {
    descriptor: AtomicI32,
    next: *const Node,
}

/// Keeps a value that a forked child inherited and must not drop, at a place where leak checkers
/// find it.
pub(crate) fn keep_inherited(inherited: impl Send + Sync + 'static) {
    static INHERITED: AtomicPtr<InheritedValue> = AtomicPtr::new(ptr::null_mut());
    struct InheritedValue {
        _value: Box<dyn Send + Sync>,
        next: AtomicPtr<InheritedValue>,
    }

    let kept = Box::leak(Box::new(InheritedValue {
        _value: Box::new(inherited),
        next: AtomicPtr::new(ptr::null_mut()),
    }));
    let kept: *mut InheritedValue = kept;
    let before = INHERITED.swap(kept, Ordering::AcqRel);
    // SAFETY: the value was leaked just above, so it lives forever, and no other code dereferences
    // the pointer.
    unsafe { &*kept }.next.store(before, Ordering::Release);
}

/// Installs the handler, once per process. Must be called before the first descriptor is opened.
pub(crate) fn install_handler() -> io::Result<()> {
    // A cell that blocks would stay locked in the child if another thread initialised it during a
    // fork. Two threads may both install the handler; the second run then has no effect.
    static INSTALLED: OnceBool = OnceBool::new();
    INSTALLED
        .get_or_try_init(|| {
            // SAFETY: the handler has the right type, lives as long as the process (the library is
            // linked with `nodelete`), never unwinds (it neither allocates nor indexes), and does
            // only what a handler may do in the child of a process with threads: atomics and
            // `close`.
            match unsafe { libc::pthread_atfork(None, None, Some(in_child)) } {
                0 => Ok(true),
                error => Err(io::Error::from_raw_os_error(error)),
            }
        })
        .map(drop)
}

unsafe extern "C" fn in_child() {
    generation::advance();
    client_number::release_all();
    for node in nodes() {
        let descriptor = node.descriptor.swap(FREE, Ordering::Relaxed);
        if descriptor != FREE {
            // SAFETY: the owner of the open descriptor registered it and unregisters it before
            // closing it, so in this child it is a copy of the owner's descriptor. The owner exists
            // in the child, too, but is never dropped or used: it is of an older generation. An
            // error changes nothing, and there is no caller to report it to.
            unsafe { libc::close(descriptor) };
        }
    }
}

/// The registration of one descriptor. Once it is dropped, forked children keep the descriptor.
#[derive(Debug)]
pub(crate) struct RegisteredDescriptor {
    node: &'static Node,
    descriptor: RawFd,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.descriptor.fmt(f)
    }
}

// SAFETY: `descriptor` is atomic. `next` is written only before the node is published, and only
// read afterwards; it is NULL or points to a node that is never freed.
unsafe impl Sync for Node {}

/// Registers `descriptor`: forked children close it, until the registration is dropped.
pub(crate) fn register(descriptor: RawFd) -> RegisteredDescriptor {
    let free = |node: &&Node| {
        node.descriptor
            .compare_exchange(FREE, descriptor, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    };
    if let Some(node) = nodes().find(free) {
        return RegisteredDescriptor { node, descriptor };
    }
    let new = Box::into_raw(Box::new(Node {
        descriptor: AtomicI32::new(descriptor),
        next: REGISTRY.load(Ordering::Relaxed),
    }));
    loop {
        // SAFETY: the pointer comes from `Box::into_raw` above, and no other thread has it until
        // the exchange succeeds, which ends this loop.
        let expected = unsafe { (*new).next.cast_mut() };
        match REGISTRY.compare_exchange(expected, new, Ordering::Release, Ordering::Relaxed) {
            // SAFETY: the node is published: it is never freed, and only its atomic is written.
            Ok(_) => return RegisteredDescriptor { node: unsafe { &*new }, descriptor },
            // SAFETY: the exchange failed, so no other thread has the pointer, and no reference to
            // the node exists.
            Err(head) => unsafe { (*new).next = head },
        }
    }
}

impl Drop for RegisteredDescriptor {
    fn drop(&mut self) {
        // In a forked child the handler has freed the node, and another descriptor may use it.
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
        // SAFETY: `next` is NULL or points to a published node. Published nodes are leaked, so each
        // lives forever. Each was complete before it was published (Release), and this thread has
        // seen the publication (Acquire): that of the head directly, those of the others because
        // every later exchange of the head continues the release sequence of the earlier ones.
        let node: &'static Node = unsafe { next.as_ref() }?;
        next = node.next;
        Some(node)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_entries_are_reused() {
        // Other tests register and free entries at the same time, so only one of many attempts must
        // get the entry that it has just freed.
        let reused = (0..1000).any(|_| {
            let first = register(1_000_001);
            let freed = ptr::from_ref(first.node);
            drop(first);
            ptr::eq(freed, register(1_000_002).node)
        });
        assert!(reused);
    }
}

//! A local server that sees whether other peers have changed anything.

use crate::harness::{RawLocalServer, text};

/// A local server that checks after each hostile act that its own groups are intact.
pub(crate) struct HonestServer {
    pub(crate) local: RawLocalServer,
    checks: usize,
}

impl HonestServer {
    pub(crate) fn new(local: RawLocalServer) -> Self {
        assert!(local.create("mine", "abcde"));
        Self { local, checks: 0 }
    }

    /// Reads its group, and creates and deletes another one.
    pub(crate) fn check(&mut self, after: &str) {
        self.checks += 1;
        let name = format!("checked-{}", self.checks);
        assert_eq!(self.local.secret("mine"), Some(text("abcde")), "after {after}");
        assert!(!self.local.create("mine", "other"), "after {after}");
        for name in ["evil", "Connect", "FindGroup", "NewGroup", "DeleteGroup"] {
            assert!(!self.local.find(name), "{name} exists after {after}");
        }
        assert!(self.local.create(&name, "12345"), "after {after}");
        assert!(self.local.delete(&name), "after {after}");
    }
}

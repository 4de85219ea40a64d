//! Tests of promises that hold for both protocols.

use kvs_proto::Protocol;

use crate::program::Program;

impl Program {
    /// Selects the protocol that the library in this program speaks.
    pub fn protocol(self, protocol: Protocol) -> Self {
        match protocol {
            Protocol::V1 => self.env("KVS_PROTOCOL", "original"),
            // The library negotiates v2 by default.
            Protocol::V2 => self,
        }
    }
}

/// Makes two tests of a function of a [`Protocol`]: `NAME::v1` and `NAME::v2`.
#[macro_export]
macro_rules! on_both_protocols {
    ($($(#[$attribute:meta])* fn $name:ident($protocol:ident: Protocol) $body:block)*) => {$(
        #[cfg(test)]
        mod $name {
            #[allow(clippy::wildcard_imports, reason = "the body is written as if outside")]
            use super::*;

            $(#[$attribute])*
            fn promise($protocol: $crate::Protocol) $body

            #[test]
            fn v1() {
                promise($crate::Protocol::V1);
            }

            #[test]
            fn v2() {
                promise($crate::Protocol::V2);
            }
        }
    )*};
}

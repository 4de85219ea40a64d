//! The two kinds of session that the library speaks, for tests of promises that hold for both.

use crate::Program;

/// A kind of session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Session {
    /// That of the original system: the library is told to speak nothing else.
    Original,
    /// What the library and the local server agree on by themselves.
    Framed,
}

impl Program {
    /// Which kind of session the library in it opens.
    pub fn speaking(self, session: Session) -> Self {
        match session {
            Session::Original => self.env("KVS_PROTOCOL", "original"),
            Session::Framed => self,
        }
    }
}

/// Makes of a function of a [`Session`] two tests, `NAME::original` and `NAME::framed`.
#[macro_export]
macro_rules! on_both_sessions {
    ($($(#[$attribute:meta])* fn $name:ident($session:ident: Session) $body:block)*) => {$(
        #[cfg(test)]
        mod $name {
            #[allow(clippy::wildcard_imports, reason = "the test is written as if it stood outside")]
            use super::*;

            $(#[$attribute])*
            fn promise($session: $crate::Session) $body

            #[test]
            fn original() {
                promise($crate::Session::Original);
            }

            #[test]
            fn framed() {
                promise($crate::Session::Framed);
            }
        }
    )*};
}

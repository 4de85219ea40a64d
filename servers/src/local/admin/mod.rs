//! What an administrator can have done, in the words of the console and of the control socket.

pub(crate) mod administration;
pub(crate) mod console;
pub(crate) mod control;
pub(crate) mod status;

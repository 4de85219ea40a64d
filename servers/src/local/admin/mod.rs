//! What an administrator can do, on the console and over the control socket.
//!
//! | module | what it does |
//! |---|---|
//! | `administration` | the operations: create, delete, show, quit |
//! | `keyed_lock` | one operation at a time for each group id |
//! | `console`, `status` | the dialogue of the console, and the status that it prints |
//! | `control` | accepts connections of the control socket and checks their users |
//! | `control_slots` | which connections are open, and which is closed for a new one |
//! | `control_session` | the thread of one connection: reads requests, writes responses |
//! | `control_requests` | carries out one request and forms its response |
//! | `control_status` | the status in parts of bounded size |

pub(crate) mod administration;
pub(crate) mod console;
pub(crate) mod control;
mod control_requests;
mod control_session;
mod control_slots;
mod control_status;
mod keyed_lock;
mod status;

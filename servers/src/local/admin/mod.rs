//! Administration of the server, on the console and over the control socket.
//!
//! | module | what it does |
//! |---|---|
//! | `administration` | the operations: create, delete, show, quit |
//! | `keyed_lock` | one operation at a time for each group id |
//! | `console`, `status` | the commands of the console, and the status that it prints |
//! | `control` | accepts connections of the control socket and checks their users |
//! | `control_slots` | the open connections; evicts one when there are too many |
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

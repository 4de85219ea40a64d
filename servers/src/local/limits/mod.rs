//! What one user may take of the server.
//!
//! | module | what it does |
//! |---|---|
//! | `limit` | the limits themselves |
//! | `quota` | what each user has of them, and the checks |
//! | `connections`, `permit` | counts connections by user and process; permits for them |
//! | `charge` | counts pairs, subscriptions, events and buffers while they exist |
//! | `usage` | who owns how many of the pairs of one group |
//! | `log` | limits the log lines that a user causes |
//! | `login_throttle` | limits how fast secrets can be guessed |

pub(crate) mod charge;
pub(crate) mod connections;
pub(crate) mod limit;
pub(crate) mod log;
pub(crate) mod login_throttle;
pub(crate) mod permit;
pub(crate) mod quota;
pub(crate) mod usage;

//! What one user may take: quotas, who uses how much of them, and how fast secrets can be guessed.

pub(crate) mod login_throttle;
pub(crate) mod quota;
pub(crate) mod usage;

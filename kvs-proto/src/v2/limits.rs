//! Limits of v2.

/// The maximum length of a key in bytes.
pub const MAX_KEY: usize = 65_536;

/// The maximum length in bytes of a value on any server.
pub const MAX_VALUE: usize = 64 << 20;

/// The maximum length in bytes of a value on a server with default options.
pub const DEFAULT_MAX_VALUE: usize = 16 << 20;

/// The body of a PUT_MANY may exceed the server's maximum length of a value by this many bytes.
pub const PUT_MANY_OVERHEAD: usize = MAX_KEY + 64;

/// The maximum number of pairs in one PUT_MANY, which is stored atomically.
pub const MAX_ENTRIES: usize = 10_000;

/// The maximum number of keys in one page.
pub const MAX_PAGE: u32 = 10_000;

/// The maximum length in bytes of the body of one page.
pub const MAX_PAGE_LEN: usize = 1 << 20;

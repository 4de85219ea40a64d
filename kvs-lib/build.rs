//! Link arguments of `libkvs.so`; they take effect only from this crate's own build script.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    // See `src/panic_points.rs`.
    println!("cargo:rustc-check-cfg=cfg(kvs_panic_points)");
    // The callback thread, the fork handler and the thread-exit handler live as long as the
    // process, so `dlclose` must not unmap their code.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

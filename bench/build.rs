//! Links the C clients of the servers that kvs is measured against, each behind its feature.
//!
//! hiredis changed the layout of its structures in version 1.0. The version found here selects the
//! declarations (`cfg(hiredis_1)`), so that library and declarations match.

use std::env;
use std::fs;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-check-cfg=cfg(hiredis_1)");
    if env::var_os("CARGO_FEATURE_REDIS").is_some() {
        let version = link("hiredis", "hiredis").or_else(hiredis_header);
        let Some(version) = version else { missing("hiredis", "libhiredis-dev", "redis") };
        if !version.starts_with("0.") {
            println!("cargo:rustc-cfg=hiredis_1");
        }
        println!("cargo:rustc-env=HIREDIS_VERSION={version}");
    }
    if env::var_os("CARGO_FEATURE_MEMCACHED").is_some() {
        // Without pkg-config the linker reports a missing library. No code depends on the version.
        link("libmemcached", "memcached");
    }
}

/// Makes cargo link a library. Returns its version if pkg-config knows it.
fn link(package: &str, library: &str) -> Option<String> {
    match pkg_config::probe_library(package) {
        Ok(found) => Some(found.version),
        Err(_) => {
            println!("cargo:rustc-link-lib={library}");
            None
        }
    }
}

/// The version of the header, for a system without pkg-config.
fn hiredis_header() -> Option<String> {
    let header = ["/usr/include", "/usr/local/include"]
        .iter()
        .find_map(|dir| fs::read_to_string(format!("{dir}/hiredis/hiredis.h")).ok())?;
    let part = |name| {
        let line = header.lines().find(|line| line.starts_with(&format!("#define {name} ")))?;
        line.split_whitespace().nth(2).map(str::to_owned)
    };
    Some([part("HIREDIS_MAJOR")?, part("HIREDIS_MINOR")?, part("HIREDIS_PATCH")?].join("."))
}

fn missing(library: &str, package: &str, feature: &str) -> ! {
    eprintln!(
        "{library} was not found: install the Debian package {package}, or build without the \
         feature `{feature}` (`--no-default-features --features …`)"
    );
    std::process::exit(1)
}

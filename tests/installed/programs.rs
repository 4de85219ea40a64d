//! Programs that are built against the installed tree.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use kvs_testkit::{STRICT, has_tools, private_dir, project_dir, tool};

use super::{InstalledEnv, run};

const PUT_GET: [&str; 3] = ["example = hello", "example = good morning", "example: no such key"];

/// Compiles an installed example with the options of pkg-config.
fn compile(
    env: &InstalledEnv,
    compiler: &[&str],
    source: &Path,
    options: &[&str],
    to: &Path,
) -> PathBuf {
    let program = to.join(source.file_stem().expect("a file"));
    let mut command = Command::new(compiler[0]);
    command.args(&compiler[1..]).args(STRICT).arg(source).arg("-o").arg(&program);
    command.args(options.iter().filter(|option| **option == "-static"));
    let pkg_config: Vec<&str> = match options.contains(&"-static") {
        true => vec!["--static", "--cflags", "--libs"],
        false => vec!["--cflags", "--libs"],
    };
    tool(command.args(env.installed.pkg_config(&pkg_config)));
    program
}

#[test]
fn c_programs_shared_and_static_with_gcc_and_clang() {
    if !has_tools(&["pkg-config", "clang"]) {
        return;
    }
    let env = InstalledEnv::start();
    let source = env.installed.path("share/doc/kvs/examples/put_get.c");
    for compiler in ["gcc", "clang"] {
        for options in [&[][..], &["-static"]] {
            let dir = private_dir();
            let program = compile(&env, &[compiler, "-std=c99"], &source, options, dir.path());
            assert_eq!(run(env.member(&program)), PUT_GET, "{compiler} {options:?}");
            let dynamic = tool(Command::new("readelf").arg("-d").arg(&program));
            assert_eq!(dynamic.contains("[libkvs.so.1]"), options.is_empty(), "{dynamic}");
        }
    }
}

#[test]
fn only_the_library_static_and_the_rest_shared() {
    if !has_tools(&["pkg-config"]) {
        return;
    }
    let env = InstalledEnv::start();
    let source = env.installed.path("share/doc/kvs/examples/put_get.c");
    let dir = private_dir();
    let program = dir.path().join("put_get");
    tool(
        Command::new("gcc")
            .arg(source)
            .arg("-o")
            .arg(&program)
            .args(env.installed.pkg_config(&["--cflags"]))
            .arg(env.installed.path("lib/libkvs.a")),
    );
    assert_eq!(run(env.member(program)), PUT_GET);
}

#[test]
fn cplusplus_programs_with_both_compilers() {
    if !has_tools(&["pkg-config", "g++", "clang"]) {
        return;
    }
    let env = InstalledEnv::start();
    let source = project_dir().join("tests/c/cplusplus.cpp");
    for compiler in ["g++", "clang++"] {
        for options in [&[][..], &["-static"]] {
            let dir = private_dir();
            let program =
                compile(&env, &[compiler, "-std=c++17", "-pthread"], &source, options, dir.path());
            run(env.member(program));
        }
    }
}

#[test]
fn installed_examples_build_and_run() {
    if !has_tools(&["pkg-config"]) {
        return;
    }
    let env = InstalledEnv::start();
    let other = env.server().create_group("other");
    let dir = private_dir();
    let examples = fs::read_dir(env.installed.path("share/doc/kvs/examples")).expect("installed");
    let mut names = Vec::new();
    for example in examples {
        let source = example.expect("it can be read").path();
        compile(&env, &["gcc", "-std=c99", "-pthread"], &source, &[], dir.path());
        names.push(source.file_stem().expect("a file").to_string_lossy().into_owned());
    }
    names.sort();
    let member = |name: &str| env.member(dir.path().join(name));
    for name in &names {
        let program = match name.as_str() {
            "app" => {
                let app = env.program(dir.path().join("app")).spawn();
                for line in ["establish_connection", env.group(), env.secret()] {
                    app.send(line);
                }
                app.expect_line("Successful 'establish_connection'");
                app.send("close_connection");
                app.expect_line("Exiting the app...");
                assert!(app.wait_exit().success());
                continue;
            }
            "watch" => {
                let watch = env
                    .program(dir.path().join("watch"))
                    .args(["-n", "1", env.group(), env.secret(), "visits"])
                    .spawn();
                watch.expect_line("watching 1 key");
                run(member("counter").args(["visits", "1"]));
                assert!(watch.wait_exit().success());
                continue;
            }
            "counter" => member("counter").args(["visits", "3"]),
            "handles" => member("handles").args(["other", &other]),
            "meminfo" => env.program(dir.path().join("meminfo")).args([
                "-i",
                "0",
                "-n",
                "1",
                env.group(),
                env.secret(),
            ]),
            "processes" | "put_get" | "threads" => member(name),
            other => panic!("{other}: no test runs this example"),
        };
        run(program);
    }
    assert!(names.contains(&"app".to_owned()) && names.len() >= 8, "{names:?}");
}

#[test]
fn cmake_finds_it_both_ways() {
    if !has_tools(&["pkg-config", "cmake"]) {
        return;
    }
    let env = InstalledEnv::start();
    let dir = private_dir();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("ours");
    fs::copy(env.installed.path("share/doc/kvs/examples/put_get.c"), dir.path().join("put_get.c"))
        .expect("it is installed");
    write(
        "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.13)\n\
         project(example C)\n\
         find_package(kvs 1.0 REQUIRED)\n\
         add_executable(shared put_get.c)\n\
         target_link_libraries(shared kvs::kvs)\n\
         add_executable(static put_get.c)\n\
         target_link_libraries(static kvs::kvs-static)\n\
         find_package(PkgConfig REQUIRED)\n\
         pkg_check_modules(KVS REQUIRED IMPORTED_TARGET kvs)\n\
         add_executable(modules put_get.c)\n\
         target_link_libraries(modules PkgConfig::KVS)\n",
    );
    tool(
        Command::new("cmake")
            .args(["-S", ".", "-B", "build"])
            .arg(format!("-DCMAKE_PREFIX_PATH={}", env.installed.path("").display()))
            .env("PKG_CONFIG_LIBDIR", env.installed.path("lib/pkgconfig"))
            .env("PKG_CONFIG_SYSROOT_DIR", env.installed.dest())
            .current_dir(dir.path()),
    );
    tool(Command::new("cmake").args(["--build", "build"]).current_dir(dir.path()));
    for program in ["shared", "static", "modules"] {
        assert_eq!(run(env.member(dir.path().join("build").join(program))), PUT_GET, "{program}");
    }

    // CMake must not find a version that is not installed.
    write(
        "CMakeLists.txt",
        "cmake_minimum_required(VERSION 3.13)\nproject(e C)\nfind_package(kvs 2.0 REQUIRED)\n",
    );
    let output = Command::new("cmake")
        .args(["-S", ".", "-B", "other"])
        .arg(format!("-DCMAKE_PREFIX_PATH={}", env.installed.path("").display()))
        .current_dir(dir.path())
        .output()
        .expect("cmake starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("1.0.0"), "{said}");
}

#[test]
fn python_calls_the_library_with_ctypes() {
    if !has_tools(&["python3"]) {
        return;
    }
    let env = InstalledEnv::start();
    let dir = private_dir();
    let script = dir.path().join("program.py");
    let text = r#"
import ctypes, queue, sys
kvs = ctypes.CDLL("libkvs.so.1")
kvs.kvs_strerror.restype = ctypes.c_char_p
group, secret = (word.encode() for word in sys.argv[1:3])
assert kvs.establish_connection(group, secret) == 0
assert kvs.put_value(b"key", b"value") == 1
changes = queue.Queue()
on_change = ctypes.CFUNCTYPE(None, ctypes.c_char_p)(changes.put)
assert kvs.register_callback(b"key", on_change) == 1
assert kvs.put_value(b"key", b"another") == 1
print(changes.get(timeout=60).decode())
value = ctypes.c_void_p()
assert kvs.get_value(b"key", ctypes.byref(value)) == 1
print(ctypes.string_at(value).decode())
ctypes.CDLL(None).free(value)
print(kvs.kvs_strerror(kvs.get_value(b"nothing", ctypes.byref(value))).decode())
assert kvs.close_connection() == 1
"#;
    fs::write(&script, text).expect("the directory is ours");
    let program = env.program("python3").arg(script).args([env.group(), env.secret()]);
    assert_eq!(run(program), ["key", "another", "no such key, group or watch"]);
}

#[test]
fn program_loads_the_library_with_dlopen() {
    let env = InstalledEnv::start();
    let dir = private_dir();
    let source = dir.path().join("load.c");
    let text = r#"
#include <dlfcn.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    for (int round = 0; round < 3; round++) {
        void *library = dlopen("libkvs.so.1", RTLD_NOW | RTLD_LOCAL);
        if (library == NULL || argc != 3) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        int (*establish)(const char *, const char *) =
            (int (*)(const char *, const char *))dlsym(library, "establish_connection");
        int (*put)(const char *, const char *) =
            (int (*)(const char *, const char *))dlvsym(library, "put_value", "KVS_1.0");
        int (*close)(void) = (int (*)(void))dlsym(library, "close_connection");
        printf("%d", establish(argv[1], argv[2]));
        printf(" %d", put("key", "value"));
        printf(" %d\n", close());
        dlclose(library);
    }
    return 0;
}
"#;
    fs::write(&source, text).expect("the directory is ours");
    let program = dir.path().join("load");
    tool(Command::new("gcc").arg("-D_GNU_SOURCE").arg(source).arg("-o").arg(&program));
    assert_eq!(run(env.member(program)), ["0 1 1"; 3]);
}

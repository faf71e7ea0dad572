//! Compiles the emulator and the kernels for it: plain, with sanitizers, or with the race checker.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

/// Which of the three: not set or empty, `address` or `race`.
const VARIABLE: &str = "KERNELS_EMU";

fn main() {
    let crate_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let emulator = crate_dir.join("cpp");
    let kernels = crate_dir.join("../src/cuda");
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    println!("cargo:rerun-if-changed={}", emulator.display());
    println!("cargo:rerun-if-changed={}", kernels.display());
    let mode = env::var(VARIABLE).unwrap_or_default();
    let flags: &[&str] = match mode.as_str() {
        "" => &[],
        "address" => {
            &["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"]
        }
        "race" => &["-fsanitize=thread", "--param=tsan-instrument-func-entry-exit=0"],
        other => panic!("{VARIABLE} is empty, address or race, not {other}"),
    };
    println!("cargo:rustc-env=EMULATOR_MODE={mode}");

    let mut sources = vec![emulator.join("planted.cu")];
    sources.extend(with_extension(&kernels, "cu"));
    let mut build = compiler(&emulator, &kernels);
    for flag in flags {
        build.flag(flag);
    }
    // Entries register themselves: nothing refers to them. cc puts the language before the files.
    build
        .flag("-x")
        .flag("c++")
        .link_lib_modifier("+whole-archive")
        .files(sources)
        .compile("emulated_kernels");

    let mut build = compiler(&emulator, &kernels);
    build.files(["collectives.cpp", "scheduler.cpp"].map(|file| emulator.join(file)));
    if mode == "address" {
        for flag in flags {
            build.flag(flag);
        }
        println!("cargo:rustc-link-lib=asan");
        println!("cargo:rustc-link-lib=ubsan");
    }
    if mode == "race" {
        build.file(emulator.join("race.cpp")).link_lib_modifier("+whole-archive");
    }
    build.compile("kernel_emulator");
}

/// No contraction and no aliasing rules, as both compilers must agree; the rest is for warnings.
fn compiler(emulator: &Path, kernels: &Path) -> cc::Build {
    let mut build = cc::Build::new();
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(true)
        .include(emulator)
        .include(kernels)
        .flag("-ffp-contract=off")
        .flag("-fno-strict-aliasing")
        .flag("-Wno-unknown-pragmas")
        .flag("-Wno-unused-parameter");
    build
}

fn with_extension(directory: &Path, extension: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).unwrap_or_else(|error| panic!("{}: {error}", directory.display()));
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    files.retain(|file| file.extension().is_some_and(|found| found == extension));
    files.sort();
    files
}

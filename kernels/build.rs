//! With the feature `cuda`: compiles the CUDA kernels, for every device that is meant, into the program.

use std::env;
use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The devices that kernels are compiled for; later ones translate the code for the last of them when they load it.
const ARCHITECTURES: &str = "75 80 89 90";
/// Names others, with spaces between.
const ARCHITECTURES_VARIABLE: &str = "CUDA_ARCHITECTURES";
/// Where the toolkit is, unless its compiler is on the path.
const TOOLKIT: &str = "CUDA_HOME";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    if env::var_os("CARGO_FEATURE_CUDA").is_none() {
        return Ok(());
    }
    println!("cargo:rerun-if-env-changed={TOOLKIT}");
    println!("cargo:rerun-if-env-changed={ARCHITECTURES_VARIABLE}");
    println!("cargo:rerun-if-changed=src/cuda");
    let architectures = env::var(ARCHITECTURES_VARIABLE).unwrap_or_else(|_| ARCHITECTURES.to_owned());
    let nvcc = env::var_os(TOOLKIT).map_or_else(|| "nvcc".into(), |home| Path::new(&home).join("bin/nvcc"));
    let out = PathBuf::from(env::var_os("OUT_DIR").ok_or("cargo names no OUT_DIR")?);
    let mut list = String::from("/// The kernels, as nvcc wrote them.\nstatic FATBINS: &[&[u8]] = &[\n");
    let mut sources: Vec<PathBuf> =
        fs::read_dir("src/cuda")?.filter_map(|entry| Some(entry.ok()?.path())).collect();
    sources.retain(|source| source.extension().is_some_and(|extension| extension == "cu"));
    sources.sort();
    for source in sources {
        let fatbin = out.join(source.with_extension("fatbin").file_name().ok_or("a source has no name")?);
        compile(&nvcc, &architectures, &source, &fatbin)?;
        list.push_str(&format!("    include_bytes!({:?}),\n", fatbin.display().to_string()));
    }
    list.push_str("];\n");
    fs::write(out.join("fatbins.rs"), list)?;
    Ok(())
}

fn compile(nvcc: &Path, architectures: &str, source: &Path, fatbin: &Path) -> Result<(), Box<dyn Error>> {
    let mut command = Command::new(nvcc);
    command.args(["-std=c++17", "-O3", "-fatbin", "--threads", "0", "-Werror", "all-warnings"]);
    for architecture in architectures.split_whitespace() {
        command.arg("-gencode").arg(format!("arch=compute_{architecture},code=sm_{architecture}"));
    }
    if let Some(last) = architectures.split_whitespace().last() {
        command.arg("-gencode").arg(format!("arch=compute_{last},code=compute_{last}"));
    }
    let status = command.arg(source).arg("-o").arg(fatbin).status().map_err(|error| {
        format!("cannot run {}: {error}; scripts/cuda-toolkit.sh installs it", nvcc.display())
    })?;
    if status.success() { Ok(()) } else { Err(format!("nvcc fails on {}", source.display()).into()) }
}

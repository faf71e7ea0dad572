# `just PART` does one part of what CI does; the commands themselves are in .ci/run.

# Lists the recipes.
default:
    @just --list --unsorted

# Everything that a submission must pass, in CI's order.
ci:
    .ci/run

# rustfmt, without writing.
format:
    .ci/run format

# cargo test.
tests:
    .ci/run tests

# The CUDA kernels on the emulator, with sanitizers and the race checker.
kernels:
    .ci/run kernels

# Compiles the CUDA kernels, and starts the program with them. Downloads nvcc into target/cuda.
cuda:
    .ci/run cuda

# Clippy with each set of features.
lints:
    .ci/run lints

# rustdoc, with warnings as errors.
docs:
    .ci/run docs

# Test vectors, Google's Python client, and the leakage meter's own tests.
python:
    .ci/run python

# Editors, their JavaScript clients, and a browser against the proxy.
editors:
    .ci/run editors

# Shell scripts: shellcheck and bats.
deploy:
    .ci/run deploy

# Lock files and cargo-deny.
dependencies:
    .ci/run dependencies

# The demo, in release mode.
demo:
    .ci/run demo

# One test, or all whose path contains NAME: `just test hub::`, `just test replay`.
test NAME:
    cargo test --locked {{NAME}}

# What sizes and times of three pairs tell an observer of the network: at most ten minutes on a quiet machine.
leakage *FLAGS:
    benches/leakage/run.sh {{FLAGS}}

# Writes what is generated: README's tables, vectors sealed by the program, dry runs of the deployment scripts.
regenerate:
    UPDATE_DOCS=1 cargo test --locked --test it docs::
    UPDATE_VECTORS=1 cargo test --locked --test it vectors::
    cargo build --locked --bin codeseal
    UPDATE_GOLDEN=1 CODESEAL=target/debug/codeseal bats tests/deploy

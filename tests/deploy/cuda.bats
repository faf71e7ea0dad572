# Programs that are linked with the stand-ins of scripts/cuda-stubs.py, and how scripts/cuda-nvcc.sh calls nvcc. No GPU, no
# driver and no nvcc: the bindings and the driver's library are made up here.

bats_require_minimum_version 1.5.0

setup_file() {
  export SCRIPTS
  SCRIPTS=$(cd "$BATS_TEST_DIRNAME/../../scripts" && pwd)
  cd "$BATS_FILE_TMPDIR"
  # In the form of cudarc's bindings.
  local status='CUresult' module
  bindings() {
    mkdir -p "bindings/$1/sys"
    printf 'pub unsafe fn %s {\n    body()\n}\n' "${@:2}" >"bindings/$1/sys/mod.rs"
  }
  bindings driver "cuInit(Flags: ::core::ffi::c_uint) -> $status" "cuMany(a: u64, f: unsafe extern \"C\" fn(u8) -> u8) -> $status" \
    "cuMissing() -> $status"
  bindings cublas "cublasCreate_v2(handle: *mut cublasHandle_t) -> cublasStatus_t" \
    "cublasGetStatusString(status: cublasStatus_t) -> *const ::core::ffi::c_char"
  bindings cublaslt "cublasLtCreate(handle: *mut cublasLtHandle_t) -> cublasStatus_t"
  bindings curand "curandCreateGenerator(generator: *mut curandGenerator_t, kind: u32) -> curandStatus_t"
  bindings nvrtc "nvrtcVersion(major: *mut ::core::ffi::c_int, minor: *mut ::core::ffi::c_int) -> nvrtcResult"
  python3 "$SCRIPTS/cuda-stubs.py" stubs bindings

  cat >cxx.cc <<'CC'
#include <stdexcept>
#include <string>
extern "C" int cxx(int number) {
  try { throw std::runtime_error(std::to_string(number)); } catch (const std::exception &e) { return std::stoi(e.what()); }
}
CC
  g++ -c -fPIC cxx.cc -o cxx.o && ar rcs libcxx.a cxx.o

  cat >program.rs <<'RS'
use std::ffi::{CStr, c_char, c_int};
#[link(name = "cuda")]
unsafe extern "C" {
    fn cuInit(flags: u32) -> c_int;
    #[allow(clippy::too_many_arguments)]
    fn cuMany(a: u64, b: u64, c: u64, d: u64, e: u64, f: u64, x0: f64, x1: f64, x2: f64, x3: f64, x4: f64, x5: f64, x6: f64,
              x7: f64, g: u64, x8: f64) -> c_int;
    fn cuMissing() -> c_int;
}
#[link(name = "cublas")]
unsafe extern "C" {
    fn cublasCreate_v2(handle: *mut u64) -> c_int;
    fn cublasGetStatusString(status: c_int) -> *const c_char;
}
#[link(name = "cublasLt")]
unsafe extern "C" { fn cublasLtCreate(handle: *mut u64) -> c_int; }
#[link(name = "curand")]
unsafe extern "C" { fn curandCreateGenerator(generator: *mut u64, kind: u32) -> c_int; }
#[link(name = "nvrtc")]
unsafe extern "C" { fn nvrtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int; }
#[link(name = "cxx", kind = "static")]
#[link(name = "stdc++")]
unsafe extern "C" { fn cxx(number: c_int) -> c_int; }

fn many() -> c_int {
    unsafe { cuMany(1, 2, 3, 4, 5, 6, 0.5, 1.5, 2.5, 3.5, 4.5, 5.5, 6.5, 7.5, 7, 8.5) }
}

fn main() {
    unsafe {
        let mut handle = 0;
        println!("cuda {} {}", cuInit(0), cuMissing());
        println!("cublas {} {}", cublasCreate_v2(&mut handle), CStr::from_ptr(cublasGetStatusString(1)).to_str().unwrap());
        println!("others {} {} {}", cublasLtCreate(&mut handle), curandCreateGenerator(&mut handle, 100), nvrtcVersion(&mut 0, &mut 0));
        println!("c++ {}", cxx(42));
    }
    // The first calls at the same time, and then a call that only jumps.
    let all = std::sync::Barrier::new(8);
    let said: Vec<c_int> = std::thread::scope(|scope| {
        let calls: Vec<_> = (0..8).map(|_| scope.spawn(|| { all.wait(); many() })).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    println!("many {said:?} {}", many());
}
RS
  rustc --edition 2024 -O -L native=stubs -L native=. program.rs -o program

  # A driver, as far as these calls go.
  mkdir driver
  cat >driver.c <<'C'
int cuInit(unsigned flags) { return (int)flags; }
int cuMany(unsigned long a, unsigned long b, unsigned long c, unsigned long d, unsigned long e, unsigned long f, double x0,
           double x1, double x2, double x3, double x4, double x5, double x6, double x7, unsigned long g, double x8) {
  return a == 1 && b == 2 && c == 3 && d == 4 && e == 5 && f == 6 && g == 7 && x0 == 0.5 && x1 == 1.5 && x2 == 2.5 && x3 == 3.5
    && x4 == 4.5 && x5 == 5.5 && x6 == 6.5 && x7 == 7.5 && x8 == 8.5 ? 77 : -1;
}
C
  gcc -shared -fPIC -O1 driver.c -o driver/libcuda.so.1
}

setup() {
  cd "$BATS_FILE_TMPDIR"
  unset CUDA_HOME CUDA_ARCHITECTURES CODESEAL_CUDA_CHECK
}

@test "a program that is linked with the stand-ins has no library of CUDA or C++ among its dynamic dependencies" {
  run -0 readelf -d program
  needed=$(sed -n 's/.*(NEEDED).*\[\(.*\)\].*/\1/p' <<<"$output" | LC_ALL=C sort | tr '\n' ' ')
  for library in $needed; do
    [[ " ld-linux-x86-64.so.2 libc.so.6 libgcc_s.so.1 libm.so.6 " == *" $library "* ]] || { echo "$needed"; false; }
  done
  [[ $needed == *libc.so.6* ]]
}

@test "without the libraries it starts, and every call returns its library's own status" {
  LD_LIBRARY_PATH="" run -0 ./program
  # The driver alone may be installed on this machine.
  [ -e /proc/driver/nvidia ] || [ "${lines[0]}" = "cuda 100 100" ]
  [ "${lines[1]}" = "cublas 1 the library of this function cannot be loaded" ]
  [ "${lines[2]}" = "others 1 203 11" ]
  [ "${lines[3]}" = "c++ 42" ]
  [ -e /proc/driver/nvidia ] || [ "${lines[4]}" = "many [100, 100, 100, 100, 100, 100, 100, 100] 100" ]
}

@test "with a library every call arrives with all its arguments, and a function that it lacks is not found" {
  LD_LIBRARY_PATH=$PWD/driver run -0 ./program
  [ "${lines[0]}" = "cuda 0 500" ]
  [ "${lines[4]}" = "many [77, 77, 77, 77, 77, 77, 77, 77] 77" ]
}

@test "stand-ins that are moved are linked from where they are" {
  cp -r stubs "$BATS_TEST_TMPDIR/moved"
  rustc --edition 2024 -L "native=$BATS_TEST_TMPDIR/moved" -L native=. program.rs -o "$BATS_TEST_TMPDIR/program"
  LD_LIBRARY_PATH=$PWD/driver run -0 "$BATS_TEST_TMPDIR/program"
  [ "${lines[0]}" = "cuda 0 500" ]
}

@test "the stand-ins are the same bytes every time" {
  python3 "$SCRIPTS/cuda-stubs.py" "$BATS_TEST_TMPDIR/again" bindings
  diff -r stubs "$BATS_TEST_TMPDIR/again"
}

@test "bindings in another form are refused" {
  cp -r bindings "$BATS_TEST_TMPDIR/other"
  echo 'pub fn cuInit() {}' >"$BATS_TEST_TMPDIR/other/driver/sys/mod.rs"
  run -1 python3 "$SCRIPTS/cuda-stubs.py" "$BATS_TEST_TMPDIR/stubs" "$BATS_TEST_TMPDIR/other"
  [[ $output == *"driver/sys/mod.rs declares no functions"* ]]
}

# nvcc ARGUMENT...: what scripts/cuda-nvcc.sh has nvcc called with, a line for each argument.
nvcc() {
  mkdir -p toolkit/bin
  printf '#!/bin/sh\nprintf "%%s\\n" "$@"\n' >toolkit/bin/nvcc
  chmod +x toolkit/bin/nvcc
  CUDA_HOME=$PWD/toolkit "$SCRIPTS/cuda-nvcc.sh" "$@"
}

@test "candle's objects are compiled for every device, with the code paths of 8.0 from there on" {
  run -0 nvcc -gencode=arch=compute_75,code=sm_75 -c -o a.o -O3 a.cu
  [ "$(grep gencode <<<"$output")" = "-gencode=arch=compute_75,code=sm_75
-gencode=arch=compute_80,code=sm_80
-gencode=arch=compute_80,code=sm_89
-gencode=arch=compute_80,code=sm_90
-gencode=arch=compute_80,code=compute_80" ]
  # Names that nvcc makes up are the same every time.
  [ "$(tail -n 6 <<<"$output" | tr '\n' ' ')" = "-c -o a.o -O3 a.cu -frandom-seed=a.cu " ]
  CUDA_ARCHITECTURES=75 run -0 nvcc -gencode=arch=compute_75,code=sm_75 -c a.cu
  [ "$(grep -c gencode <<<"$output")" = 2 ]
  [[ $output == *"code=sm_75"*"code=compute_75"* ]]
}

@test "candle's PTX is compiled once, for the first device, with bf16" {
  CUDA_ARCHITECTURES="75 90" run -0 nvcc -gencode=arch=compute_80,code=sm_80 --ptx --output-directory out a.cu
  [ "$(grep gencode <<<"$output")" = "-gencode=arch=compute_75,code=compute_75" ]
  [[ $output == *"-include"*"/scripts/cuda-bf16.cuh"*"--ptx"* ]]
}

@test "to check that candle's kernels compile, PTX is made without optimization" {
  CODESEAL_CUDA_CHECK=1 run -0 nvcc -gencode=arch=compute_75,code=sm_75 -c a.cu
  [ "$(grep gencode <<<"$output")" = "-gencode=arch=compute_80,code=compute_80" ]
  [[ $output == *"-Xcicc"*"-O0"* ]]
  run -0 nvcc -gencode=arch=compute_75,code=sm_75 -c a.cu
  [[ $output != *"-Xcicc"* ]]
}

@test "what nvcc is called for otherwise is passed on" {
  run -0 nvcc --lib -o libmoe.a a.o b.o
  [ "$(tr '\n' ' ' <<<"$output")" = "--lib -o libmoe.a a.o b.o " ]
  CUDA_HOME="" PATH="$PWD/toolkit/bin:$PATH" run -0 "$SCRIPTS/cuda-nvcc.sh" --version
  [ "$output" = --version ]
}

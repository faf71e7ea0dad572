//! Planted mistakes: each must be found by the checks that are said to find it, and what is right must pass.

use std::env;
use std::process::Command;

use codeseal_emulator::{Arg, MODE, Schedule};

use codeseal_emulator::device::Emulator;
use codeseal_emulator::numbers::Numbers;

const THREADS: usize = 96;
/// Tells the test that runs in a process of its own which kernel to run.
const KERNEL: &str = "CODESEAL_PLANTED_KERNEL";

/// The first number that a kernel makes of `x`.
fn run(kernel: &str, schedule: Schedule, blocks: u32, x: &[f32]) -> Result<f32, String> {
    run_all(&[kernel], schedule, blocks, x)
}

/// The first number that kernels leave which run one after the other.
fn run_all(kernels: &[&str], schedule: Schedule, blocks: u32, x: &[f32]) -> Result<f32, String> {
    codeseal_emulator::schedule(schedule, 0);
    let (x, out) = (Emulator.put(x), Emulator.put(&vec![0.0; 2 + blocks as usize]));
    let args = [x.view().arg(), out.view().arg()].map(|arg| Arg { bits: arg.bits(), size: arg.bytes() });
    for kernel in kernels {
        // SAFETY: planted kernels read a number for each thread, and write as many as there are blocks and two more.
        unsafe {
            codeseal_emulator::launch(kernel, [blocks, 1, 1], [THREADS as u32, 1, 1], 0, &args)?;
        }
    }
    Ok(out.read(&Emulator).unwrap()[0])
}

/// The sum of the distances from the mean, which most of the kernels should compute.
fn spread(x: &[f32]) -> f32 {
    let mean = x.iter().sum::<f32>() / x.len() as f32;
    x.iter().map(|x| (x - mean).abs()).sum()
}

fn schedules() -> impl Iterator<Item = Schedule> {
    (1..4).flat_map(Schedule::each)
}

#[test]
fn what_is_right_passes() {
    let x = Numbers::new(1).normals(THREADS, 1.0);
    for schedule in schedules() {
        let sum = run("planted_none", schedule, 1, &x).unwrap();
        assert!((sum - spread(&x)).abs() < 1e-3, "{schedule:?}: {sum}");
        let sum = run("planted_copies", schedule, 1, &x).unwrap();
        assert!((sum - 3.0 * x.iter().sum::<f32>()).abs() < 1e-3, "{schedule:?}: {sum}");
        assert_eq!(run("planted_syncwarp", schedule, 3, &x), Ok(x[1]));
        let sum = run("planted_last_block", schedule, 5, &x).unwrap();
        assert!((sum - x[..5].iter().sum::<f32>()).abs() < 1e-5, "{schedule:?}: {sum}");
    }
}

#[test]
fn threads_that_do_not_meet_are_reported_with_the_line() {
    let x = vec![1.0; THREADS];
    for schedule in schedules() {
        for (kernel, message) in [
            ("planted_two_barriers", "divergent barrier"),
            ("planted_early_exit", "has exited"),
            ("planted_wrong_mask", "has exited"),
            ("planted_outside_mask", "shuffle reads a lane outside its mask"),
        ] {
            let error = run(kernel, schedule, 1, &x).unwrap_err();
            assert!(
                error.contains(message) && error.contains("planted.cu:"),
                "{kernel} {schedule:?}: {error}"
            );
        }
    }
}

#[test]
fn a_trap_ends_the_launch() {
    let mut x = vec![1.0; THREADS];
    assert_eq!(run("planted_trap", Schedule::InOrder, 1, &x), Ok(1.0));
    x[50] = f32::MAX;
    let error = run("planted_trap", Schedule::InOrder, 1, &x).unwrap_err();
    assert!(error.contains("__trap: thread 50"), "{error}");
}

#[test]
fn missing_barriers_show_in_the_result_or_as_races() {
    let x = Numbers::new(2).normals(THREADS, 1.0);
    for kernel in ["planted_no_barrier", "planted_no_barrier_before_reuse"] {
        for schedule in [Schedule::InOrder, Schedule::Reverse] {
            match run(kernel, schedule, 1, &x) {
                Ok(sum) => assert!(
                    MODE != "race" && (sum.is_nan() || (sum - spread(&x)).abs() > 1e-3),
                    "{kernel} {schedule:?} gives {sum}"
                ),
                Err(error) => assert!(error.contains("race on shared memory"), "{error}"),
            }
        }
    }
}

#[test]
fn copies_that_are_used_too_early_show_in_the_result_or_as_races() {
    let x = Numbers::new(4).normals(THREADS, 1.0);
    let whole = 3.0 * x.iter().sum::<f32>();
    for kernel in
        ["planted_copies_not_waited_for", "planted_copies_not_met", "planted_copies_into_what_is_read"]
    {
        for schedule in schedules() {
            match run(kernel, schedule, 1, &x) {
                Ok(sum) => {
                    assert!(sum.is_nan() || (sum - whole).abs() > 1e-3, "{kernel} {schedule:?} gives {sum}");
                }
                Err(error) => assert!(error.contains("race on shared memory"), "{error}"),
            }
        }
    }
}

#[test]
fn launches_that_do_not_wait_for_each_other_are_reported() {
    let x = vec![1.0; THREADS];
    for schedule in schedules() {
        assert_eq!(run_all(&["planted_waits"; 3], schedule, 1, &x), Ok(3.0));
        let error = run_all(&["planted_waits", "planted_never_waits"], schedule, 1, &x).unwrap_err();
        assert!(error.contains("has not waited"), "{error}");
        for kernel in ["planted_reads_too_early", "planted_writes_too_early"] {
            let result = run_all(&["planted_waits", kernel], schedule, 1, &x);
            assert_eq!(result.is_err(), MODE == "race", "{kernel} {schedule:?}: {result:?}");
            assert!(result.is_ok() || result.unwrap_err().contains("before it waits"));
        }
    }
}

#[test]
fn races_are_found_whatever_the_schedule() {
    if MODE != "race" {
        return;
    }
    let x = Numbers::new(3).normals(THREADS, 1.0);
    for schedule in schedules() {
        for (kernel, message) in [
            ("planted_no_barrier", "race on shared memory"),
            ("planted_no_barrier_before_reuse", "race on shared memory"),
            ("planted_no_syncwarp", "of the same block"),
            ("planted_blocks_collide", "race on global memory (write after write)"),
        ] {
            let error = run(kernel, schedule, 4, &x).unwrap_err();
            assert!(error.contains(message), "{kernel} {schedule:?}: {error}");
        }
    }
}

#[test]
fn what_is_out_of_bounds_ends_the_process_in_an_address_build() {
    if MODE != "address" {
        return;
    }
    for (kernel, message) in [
        ("planted_past_shared", "index 32 out of bounds"),
        ("planted_past_global", "heap-buffer-overflow"),
        ("planted_misaligned", "misaligned address"),
    ] {
        let output = Command::new(env::current_exe().unwrap())
            .env_clear()
            .args(["--exact", "planted::the_kernel_that_the_environment_names", "--ignored"])
            .env(KERNEL, kernel)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && text.contains(message), "{kernel}: {text}");
        assert!(text.contains("planted.cu"), "{kernel} is not located: {text}");
    }
}

#[test]
#[ignore = "run by another test, in a process that it may end"]
fn the_kernel_that_the_environment_names() {
    let kernel = env::var(KERNEL).unwrap();
    run(&kernel, Schedule::InOrder, 1, &vec![1.0; THREADS]).unwrap();
}

#[test]
fn wrong_arguments_and_shapes_are_refused() {
    let launch = |kernel: &str, threads, sizes: &[usize]| {
        let args: Vec<Arg> = sizes.iter().map(|&size| Arg { bits: 0, size }).collect();
        // SAFETY: refused before anything runs.
        unsafe { codeseal_emulator::launch(kernel, [1, 1, 1], [threads, 1, 1], 0, &args).unwrap_err() }
    };
    assert!(launch("planted_none", 32, &[8]).contains("takes arguments of [8, 8] bytes, not [8]"));
    assert!(launch("planted_none", 32, &[8, 4]).contains("not [8, 4]"));
    assert!(launch("planted_nothing", 32, &[]).contains("no kernel planted_nothing"));
    assert!(launch("planted_none", 1025, &[8, 8]).contains("1024 threads"));
    assert!(launch("planted_none", 0, &[8, 8]).contains("1 to 1024"));
}

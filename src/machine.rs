//! How much memory this process can still take: what the machine has free, and what its control groups and its own limits
//! leave of it.
//!
//! Allowed modules: none.
//! Forbidden: tokio.

use std::fmt;
use std::path::{Component, Path, PathBuf};

/// What is taken for granted where the system says nothing, in bytes.
const UNKNOWN: u64 = 1 << 30;
/// Version 1 of control groups writes a limit of about 2^63 where there is none.
const UNLIMITED: u64 = 1 << 60;

/// Memory that can be taken without being killed for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Available {
    /// In bytes.
    pub bytes: u64,
    /// What bounds it.
    pub bound: Bound,
}

/// What bounds the memory of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bound {
    /// The machine has no more that is free.
    Machine,
    /// The memory limit of a control group, this process's own or one around it.
    ControlGroup,
    /// `ulimit -v`.
    AddressSpace,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Machine => "what this machine has free",
            Self::ControlGroup => "the memory limit of the control group",
            Self::AddressSpace => "ulimit -v",
        })
    }
}

impl Available {
    /// What is available to this process now.
    pub fn now() -> Self {
        Self::at(Path::new("/"))
    }

    /// How many bytes can be written to where addresses are reserved already: what machine and control groups leave.
    pub(crate) fn writable() -> u64 {
        let [machine, group, _] = Self::bounds(Path::new("/"));
        [machine, group].into_iter().flatten().min().unwrap_or(UNKNOWN)
    }

    /// The same as the files below `root` say, which has `proc` and the mounts of control groups in it.
    pub(crate) fn at(root: &Path) -> Self {
        let bounds =
            Self::bounds(root).into_iter().zip([Bound::Machine, Bound::ControlGroup, Bound::AddressSpace]);
        let least = bounds.filter_map(|(bytes, bound)| Some((bytes?, bound)));
        let (bytes, bound) = least.min_by_key(|(bytes, _)| *bytes).unwrap_or((UNKNOWN, Bound::Machine));
        Self { bytes, bound }
    }

    /// What machine, control groups and the limit of the address space leave, in bytes.
    fn bounds(root: &Path) -> [Option<u64>; 3] {
        let read = |path: &Path| {
            let relative = path.strip_prefix("/").unwrap_or(path);
            std::fs::read_to_string(root.join(relative)).ok()
        };
        let proc = |name: &str| read(&Path::new("/proc").join(name)).unwrap_or_default();
        let free = kilobytes(&proc("meminfo"), "MemAvailable:").unwrap_or(UNKNOWN);
        let groups = control_groups(&proc("self/cgroup"), &proc("self/mountinfo"));
        let group = groups.iter().filter_map(|group| group.room(&read)).min();
        let size = kilobytes(&proc("self/status"), "VmSize:").unwrap_or(0);
        let space = address_space(&proc("self/limits")).map(|limit| limit.saturating_sub(size));
        [Some(free), group, space]
    }
}

/// A directory of a control group whose files bound memory.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ControlGroup {
    directory: PathBuf,
    /// Version 2's names, or version 1's.
    unified: bool,
}

impl ControlGroup {
    /// The bytes that its limits leave; none if it has no limit.
    fn room(&self, read: &impl Fn(&Path) -> Option<String>) -> Option<u64> {
        let number = |name: &str| read(&self.directory.join(name))?.trim().parse::<u64>().ok();
        let (limits, usage, cache): (&[&str], _, _) = if self.unified {
            (&["memory.max", "memory.high"], "memory.current", ["inactive_file", "active_file"])
        } else {
            (
                &["memory.limit_in_bytes"],
                "memory.usage_in_bytes",
                ["total_inactive_file", "total_active_file"],
            )
        };
        // `max` is no number.
        let limit = limits.iter().filter_map(|name| number(name)).min().filter(|&limit| limit < UNLIMITED)?;
        // Cached files are counted, and are given up when memory is wanted.
        let statistics = read(&self.directory.join("memory.stat")).unwrap_or_default();
        let cached = statistics.lines().filter_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            cache.contains(&name).then(|| bytes.trim().parse::<u64>().ok())?
        });
        let used = number(usage).unwrap_or(0).saturating_sub(cached.sum());
        Some(limit.saturating_sub(used))
    }
}

/// The control groups that count this process's memory, its own and all around it, by `/proc/self/cgroup` and
/// `/proc/self/mountinfo`.
fn control_groups(membership: &str, mounts: &str) -> Vec<ControlGroup> {
    let mut groups = Vec::new();
    for line in membership.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next())
        else {
            continue;
        };
        let unified = number == "0" && controllers.is_empty();
        if !unified && !controllers.split(',').any(|controller| controller == "memory") {
            continue;
        }
        for (root, point) in mounts.lines().filter_map(|line| mount(line, unified)) {
            // A mount may show a part of the hierarchy only, and the path may lead out of what is shown.
            let inside = Path::new(path).strip_prefix(&root).unwrap_or(Path::new(""));
            let inside: PathBuf =
                inside.components().filter(|part| matches!(part, Component::Normal(_))).collect();
            let all = inside.ancestors().map(|part| point.join(part));
            groups.extend(all.map(|directory| ControlGroup { directory, unified }));
        }
    }
    groups
}

/// What a line of `/proc/self/mountinfo` mounts where, if that is the hierarchy with memory in it.
fn mount(line: &str, unified: bool) -> Option<(PathBuf, PathBuf)> {
    let (place, kind) = line.split_once(" - ")?;
    let mut place = place.split(' ').skip(3);
    let (root, point) = (place.next()?, place.next()?);
    let mut kind = kind.split(' ');
    let (file_system, options) = (kind.next()?, kind.nth(1).unwrap_or_default());
    let is_it = if unified {
        file_system == "cgroup2"
    } else {
        file_system == "cgroup" && options.split(',').any(|option| option == "memory")
    };
    // A blank is written as \040.
    is_it.then(|| (root.replace("\\040", " ").into(), point.replace("\\040", " ").into()))
}

/// The number of kibibytes that the line `name` has, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The soft limit on the size of the process, by `/proc/self/limits`.
fn address_space(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max address space"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;
    const MEMINFO: &str = "MemTotal:       25165824 kB\nMemAvailable:   20971520 kB\n";
    const UNIFIED: &str = "30 24 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";
    const SPLIT: &str = "33 24 0:29 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n\
        34 24 0:30 / /sys/fs/cgroup/cpu ro - cgroup cgroup rw,cpu,cpuacct\n";

    fn available(files: &[(&str, &str)]) -> Available {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in [("proc/meminfo", MEMINFO)].iter().chain(files) {
            let path = root.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Available::at(root.path())
    }

    fn unified(files: &[(&str, &str)]) -> Available {
        let base = [("proc/self/cgroup", "0::/a/b\n"), ("proc/self/mountinfo", UNIFIED)];
        available(&[&base[..], files].concat())
    }

    fn of_group(bytes: u64) -> Available {
        Available { bytes, bound: Bound::ControlGroup }
    }

    #[test]
    fn without_limits_it_is_what_the_machine_has_free() {
        let machine = Available { bytes: 20 * GIB, bound: Bound::Machine };
        assert_eq!(available(&[]), machine);
        assert_eq!(unified(&[("sys/fs/cgroup/a/b/memory.max", "max\n")]), machine);
        let larger = (64 * GIB).to_string();
        assert_eq!(unified(&[("sys/fs/cgroup/a/b/memory.max", &larger)]), machine);
        assert_eq!(Available::at(Path::new("/nonexistent")).bytes, UNKNOWN);
    }

    #[test]
    fn the_tightest_group_of_the_hierarchy_counts() {
        let (own, outer) = ((8 * GIB).to_string(), (2 * GIB).to_string());
        let files =
            [("sys/fs/cgroup/a/b/memory.max", own.as_str()), ("sys/fs/cgroup/a/memory.max", outer.as_str())];
        assert_eq!(unified(&files), of_group(2 * GIB));
        assert_eq!(unified(&files[..1]), of_group(8 * GIB));
        let high = [("sys/fs/cgroup/a/b/memory.max", "max"), ("sys/fs/cgroup/a/b/memory.high", &outer)];
        assert_eq!(unified(&high), of_group(2 * GIB));
    }

    #[test]
    fn what_a_group_uses_is_gone_and_its_cached_files_are_not() {
        let (limit, used) = ((8 * GIB).to_string(), (5 * GIB).to_string());
        let stat = format!("anon {GIB}\ninactive_file {}\nactive_file {GIB}\nfile 1\n", 2 * GIB);
        let files = [
            ("sys/fs/cgroup/a/b/memory.max", limit.as_str()),
            ("sys/fs/cgroup/a/b/memory.current", used.as_str()),
            ("sys/fs/cgroup/a/b/memory.stat", stat.as_str()),
        ];
        assert_eq!(unified(&files), of_group(6 * GIB));
        let over =
            [("sys/fs/cgroup/a/b/memory.max", used.as_str()), ("sys/fs/cgroup/a/b/memory.current", &limit)];
        assert_eq!(unified(&over), of_group(0));
    }

    #[test]
    fn version_one_has_other_names_and_no_word_for_unlimited() {
        let base = [
            ("proc/self/cgroup", "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n"),
            ("proc/self/mountinfo", SPLIT),
        ];
        let split = |files: &[(&str, &str)]| available(&[&base[..], files].concat());
        let (limit, used) = ((4 * GIB).to_string(), (2 * GIB).to_string());
        let stat = format!("inactive_file 1\ntotal_inactive_file {GIB}\n");
        let files = [
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit.as_str()),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", used.as_str()),
            ("sys/fs/cgroup/memory/memory.stat", stat.as_str()),
        ];
        assert_eq!(split(&files), of_group(3 * GIB));
        let none = [("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n")];
        assert_eq!(split(&none).bound, Bound::Machine);
    }

    #[test]
    fn a_path_that_leads_out_of_the_mount_is_the_mount() {
        for path in ["0::/../../elsewhere\n", "0::/\n", "0::/elsewhere\n"] {
            let groups = control_groups(path, UNIFIED);
            let top = ControlGroup { directory: "/sys/fs/cgroup".into(), unified: true };
            assert!(groups.contains(&top), "{path}: {groups:?}");
        }
    }

    #[test]
    fn a_limit_on_the_address_space_counts() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max address space         3221225472           unlimited            bytes\n";
        let files = [("proc/self/limits", limits), ("proc/self/status", "VmSize:\t 1048576 kB\n")];
        assert_eq!(available(&files), Available { bytes: 2 * GIB, bound: Bound::AddressSpace });
        let none = limits.replace("3221225472", "unlimited ");
        assert_eq!(available(&[("proc/self/limits", &none)]).bound, Bound::Machine);
    }

    #[test]
    fn junk_is_no_limit() {
        for text in ["", "\n", "x", "-1", "0::", "1:memory", &"9".repeat(40)] {
            let files = [
                ("proc/self/cgroup", text),
                ("proc/self/mountinfo", text),
                ("proc/self/limits", text),
                ("proc/self/status", text),
            ];
            assert_eq!(available(&files).bound, Bound::Machine, "{text}");
            assert_eq!(unified(&[("sys/fs/cgroup/a/b/memory.max", text)]).bound, Bound::Machine, "{text}");
        }
    }

    #[test]
    fn this_machine_has_some_memory() {
        assert!(Available::now().bytes > 1 << 20);
    }
}

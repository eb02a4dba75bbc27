//! How much memory a process's control groups allow.

/// Groups within groups are looked at this deep.
const DEEPEST: usize = 32;
/// Version 1 says "no limit" by the largest number of whole pages.
const NONE: u64 = 1 << 62;

/// The smallest memory limit of the groups that a process is in, bytes; `None` if there is none. `cgroup` is the text of
/// /proc/PID/cgroup (cgroups(7)); `read` gives the contents of a file below /sys/fs/cgroup.
///
/// A limit is the group's: other processes in it use of it, too. Version 2: `memory.max`, version 1:
/// `memory.limit_in_bytes` (Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst).
pub fn memory_limit(cgroup: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    let limits = cgroup.lines().take(64).filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        match (number, controllers) {
            ("0", "") => smallest(&["", "/unified"], path, "memory.max", read),
            (_, names) if names.split(',').any(|name| name == "memory") => {
                smallest(&["/memory"], path, "memory.limit_in_bytes", read)
            }
            _ => None,
        }
    });
    limits.min()
}

/// The smallest limit of a group and those around it.
fn smallest(mounts: &[&str], path: &str, file: &str, read: &dyn Fn(&str) -> Option<String>) -> Option<u64> {
    // Outside our own namespace: not to be found from here.
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return None;
    }
    let mut smallest = None;
    let mut group = path.trim_end_matches('/');
    for _ in 0..DEEPEST {
        for mount in mounts {
            let limit =
                read(&format!("{mount}{group}/{file}")).and_then(|text| text.trim().parse::<u64>().ok());
            if let Some(limit) = limit.filter(|limit| *limit < NONE) {
                smallest = Some(smallest.map_or(limit, |known: u64| known.min(limit)));
            }
        }
        let Some((parent, _)) = group.rsplit_once('/') else { break };
        group = parent;
    }
    smallest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(cgroup: &str, files: &[(&str, &str)]) -> Option<u64> {
        let read =
            |path: &str| files.iter().find(|(name, _)| *name == path).map(|(_, text)| format!("{text}\n"));
        memory_limit(cgroup, &read)
    }

    #[test]
    fn the_smallest_limit_of_all_groups_around_counts() {
        let files = [
            ("/kube/memory.max", "8000"),
            ("/kube/pod/memory.max", "4000"),
            ("/kube/pod/app/memory.max", "max"),
        ];
        assert_eq!(limit("0::/kube/pod/app", &files), Some(4000));
        assert_eq!(limit("0::/kube", &files), Some(8000));
        assert_eq!(limit("0::/other", &files), None);
        assert_eq!(limit("0::/", &[("/memory.max", "1")]), Some(1));
    }

    #[test]
    fn both_versions_are_understood_and_none_is_none() {
        let cgroup = "9:cpu,cpuacct:/a\n4:memory:/docker/x\n0::/b\n";
        let none = ("/memory/docker/memory.limit_in_bytes", "9223372036854771712");
        assert_eq!(limit(cgroup, &[none]), None);
        assert_eq!(limit(cgroup, &[none, ("/memory/docker/x/memory.limit_in_bytes", "512")]), Some(512));
        assert_eq!(limit(cgroup, &[("/unified/b/memory.max", "7")]), Some(7));
    }

    #[test]
    fn what_cannot_be_found_from_here_is_not_looked_for() {
        let asked = std::cell::Cell::new(0);
        let read = |_: &str| {
            asked.set(asked.get() + 1);
            None
        };
        for cgroup in ["0::/../../etc", "0::relative", "0:memory", "", "x", "4:memory:/a/../b"] {
            assert_eq!(memory_limit(cgroup, &read), None, "{cgroup}");
        }
        assert_eq!(asked.get(), 0);
        memory_limit(&format!("0::{}", "/a".repeat(1000)), &read);
        assert!(asked.get() <= 2 * DEEPEST, "{}", asked.get());
    }
}

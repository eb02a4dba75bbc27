//! What a process's control groups say of it: which unit of systemd and which container it belongs to. Pure over the
//! text of /proc/PID/cgroup.

/// More lines than this are not read: one for each hierarchy, and Linux has about 14 controllers.
const LINES_LIMIT: usize = 64;
/// Hexadecimal digits of a container's full id (docker, containerd, CRI-O, podman).
const ID_DIGITS: usize = 64;
/// Where the hierarchies are mounted by convention; people copy paths from there.
const MOUNT: &str = "/sys/fs/cgroup";

/// The control groups of a process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroups {
    /// Without duplicates: the one of version 2 first, then systemd's own, then the others as listed.
    paths: Vec<String>,
    /// Which of them says most.
    main: usize,
    unit: Option<String>,
    container: Option<String>,
}

impl Cgroups {
    /// Reads the text of /proc/PID/cgroup (cgroups(7)); `None` if there is no line as there should be.
    ///
    /// Seen from inside a cgroup namespace, the path of a process outside it begins with `/..`, once for each step up.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines: Vec<(u8, &str)> = text.lines().take(LINES_LIMIT).filter_map(parse_line).collect();
        // Stable: the others stay in their order.
        lines.sort_by_key(|(rank, _)| *rank);
        let mut paths: Vec<String> = Vec::new();
        for (_, path) in lines {
            if !paths.iter().any(|known| known == path) {
                paths.push(path.to_owned());
            }
        }
        if paths.is_empty() {
            return None;
        }
        let unit = paths.iter().find_map(|path| unit_of(path));
        let contained =
            paths.iter().enumerate().find_map(|(at, path)| container_of(path).map(|name| (at, name)));
        // With both versions mounted, Docker's container is known to version 1 alone, and version 2 says which service
        // started it.
        let deepest =
            contained.as_ref().map(|(at, _)| *at).or_else(|| paths.iter().position(|path| path != "/"));
        Some(Self { main: deepest.unwrap_or(0), unit, container: contained.map(|(_, name)| name), paths })
    }

    /// The path that says most: the container's, else that of version 2, else systemd's, else the first that isn't the
    /// root.
    pub fn path(&self) -> &str {
        // In bounds by construction; the root where it weren't.
        self.paths.get(self.main).map_or("/", String::as_str)
    }

    /// The innermost `*.service` or `*.scope`, as systemd names it: with its escapes (`\x2d` for `-`) as they are.
    pub fn unit(&self) -> Option<&str> {
        self.unit.as_deref()
    }

    /// The innermost container: its full id, or the name of one that has no id (LXC, systemd-nspawn).
    pub fn container(&self) -> Option<&str> {
        self.container.as_deref()
    }

    /// Whether the process is in this group or below it, in any hierarchy. `group` as [`group_path`] makes it.
    pub fn is_within(&self, group: &str) -> bool {
        self.paths.iter().any(|path| is_below(path, group) || is_below(without_steps_up(path), group))
    }
}

/// A group's path as a person writes it, in the form in which [`Cgroups::is_within`] compares: from the root of the
/// hierarchy, without a slash at the end.
pub(super) fn group_path(text: &str) -> String {
    let path = text.strip_prefix(MOUNT).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    // Where both versions are mounted, version 2 is mounted here (systemd's "hybrid" layout).
    let path = path.map(|rest| strip_component(rest, "/unified").unwrap_or(rest)).unwrap_or(text);
    format!("/{}", path.trim_matches('/'))
}

fn strip_component<'a>(path: &'a str, component: &str) -> Option<&'a str> {
    path.strip_prefix(component).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn is_below(path: &str, group: &str) -> bool {
    group == "/" || strip_component(path, group).is_some()
}

/// What is known of an absolute path that was given relative to our own group.
fn without_steps_up(path: &str) -> &str {
    let mut rest = path;
    while let Some(shorter) = strip_component(rest, "/..") {
        rest = shorter;
    }
    rest
}

/// One line, `number:controllers:path`, and its rank.
fn parse_line(line: &str) -> Option<(u8, &str)> {
    let mut fields = line.splitn(3, ':');
    let number = fields.next()?;
    let controllers = fields.next()?;
    let path = fields.next()?;
    // Version 2 marks groups that were removed while the process was in them.
    let path = path.strip_suffix(" (deleted)").unwrap_or(path);
    let rank = match (number, controllers) {
        ("0", "") => 0,
        (_, "name=systemd") => 1,
        _ => 2,
    };
    path.starts_with('/').then_some((rank, path))
}

fn unit_of(path: &str) -> Option<String> {
    let is_unit = |name: &&str| {
        let stem = name.strip_suffix(".service").or_else(|| name.strip_suffix(".scope"));
        stem.is_some_and(|stem| !stem.is_empty())
    };
    let name = path.split('/').rev().find(is_unit)?;
    // systemd puts `_` before names that the kernel might want for its own files (cg_escape, src/basic/cgroup-util.c).
    Some(name.strip_prefix('_').unwrap_or(name).to_owned())
}

fn container_of(path: &str) -> Option<String> {
    let components: Vec<&str> = path.split('/').collect();
    (0..components.len()).rev().find_map(|at| {
        let outer = at.checked_sub(1).map_or("", |outer| components[outer]);
        id_in(components[at]).map(str::to_owned).or_else(|| machine_name(components[at], outer))
    })
}

/// `ID`, `docker-ID.scope`, `cri-containerd-ID.scope`, `crio-ID.scope`, `libpod-ID.scope`,
/// `kubepods-podUID.slice:cri-containerd:ID`.
fn id_in(component: &str) -> Option<&str> {
    // These hold the process that watches over a container, not the container.
    if component.contains("-conmon-") {
        return None;
    }
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    component
        .split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| word.len() == ID_DIGITS && word.bytes().all(is_digit))
}

/// Containers without an id: `lxc/NAME`, `lxc.payload/NAME`, `lxc.payload.NAME`, `machine-NAME.scope`,
/// `systemd-nspawn@NAME.service`.
fn machine_name(component: &str, outer: &str) -> Option<String> {
    let name = if matches!(outer, "lxc" | "lxc.payload") {
        component.to_owned()
    } else if let Some(name) = component.strip_prefix("lxc.payload.") {
        name.to_owned()
    } else {
        let scope = component.strip_prefix("machine-").and_then(|rest| rest.strip_suffix(".scope"));
        let service =
            component.strip_prefix("systemd-nspawn@").and_then(|rest| rest.strip_suffix(".service"));
        // libvirt's virtual machines are registered there, too: what runs in them is none of our processes.
        unescape(scope.or(service)?).filter(|name| !name.starts_with("qemu-"))?
    };
    (!name.is_empty()).then_some(name)
}

/// Undoes systemd's escapes (systemd.unit(5)): `\xHH` stands for a byte. `None` if the outcome is no text.
fn unescape(name: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some(at) = rest.find("\\x") {
        bytes.extend_from_slice(rest.get(..at)?.as_bytes());
        bytes.push(u8::from_str_radix(rest.get(at + 2..at + 4)?, 16).ok()?);
        rest = rest.get(at + 4..)?;
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "3f1c9d0e8b7a65544332211000ffeeddccbbaa99887766554433221100abcdef";

    fn read(text: &str) -> (String, Option<String>, Option<String>) {
        let groups = Cgroups::parse(&text.replace("ID", ID)).unwrap();
        (
            groups.path().replace(ID, "ID"),
            groups.unit.clone(),
            groups.container.map(|id| id.replace(ID, "ID")),
        )
    }

    /// Lines as such machines show them: path, unit, container.
    #[test]
    fn the_group_the_unit_and_the_container_are_found_in_what_real_machines_say() {
        let cases: [(&str, &str, &str, &str); 20] = [
            ("0::/system.slice/nginx.service\n", "/system.slice/nginx.service", "nginx.service", ""),
            ("0::/init.scope\n", "/init.scope", "init.scope", ""),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1f.scope\n",
                "/user.slice/user-1000.slice/user@1000.service/app.slice/app-org.gnome.Terminal.slice/vte-spawn-1f.scope",
                "vte-spawn-1f.scope",
                "",
            ),
            ("0::/system.slice/docker-ID.scope\n", "/system.slice/docker-ID.scope", "docker-ID.scope", "ID"),
            ("0::/docker/ID\n", "/docker/ID", "", "ID"),
            // systemd inside the container
            (
                "0::/system.slice/docker-ID.scope/system.slice/ssh.service\n",
                "/system.slice/docker-ID.scope/system.slice/ssh.service",
                "ssh.service",
                "ID",
            ),
            (
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b.slice/cri-containerd-ID.scope\n",
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1a2b.slice/cri-containerd-ID.scope",
                "cri-containerd-ID.scope",
                "ID",
            ),
            // containerd told to use systemd's names, without systemd
            (
                "11:memory:/system.slice/containerd.service/kubepods-besteffort-pod1a2b.slice:cri-containerd:ID\n",
                "/system.slice/containerd.service/kubepods-besteffort-pod1a2b.slice:cri-containerd:ID",
                "containerd.service",
                "ID",
            ),
            (
                "9:pids:/kubepods/besteffort/pod0f3a/ID\n1:name=systemd:/kubepods/besteffort/pod0f3a/ID\n",
                "/kubepods/besteffort/pod0f3a/ID",
                "",
                "ID",
            ),
            (
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container\n",
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope/container",
                "libpod-ID.scope",
                "ID",
            ),
            (
                "0::/machine.slice/libpod-conmon-ID.scope\n",
                "/machine.slice/libpod-conmon-ID.scope",
                "libpod-conmon-ID.scope",
                "",
            ),
            // both versions: Docker without systemd's help
            (
                "12:pids:/docker/ID\n2:cpu,cpuacct:/docker/ID\n1:name=systemd:/docker/ID\n0::/system.slice/containerd.service\n",
                "/docker/ID",
                "containerd.service",
                "ID",
            ),
            // both versions, systemd's own
            (
                "12:cpu,cpuacct:/\n3:memory:/system.slice/cron.service\n1:name=systemd:/system.slice/cron.service\n0::/system.slice/cron.service\n",
                "/system.slice/cron.service",
                "cron.service",
                "",
            ),
            // Docker in Docker: the inner one
            (
                "0::/docker/00000000000000000000000000000000000000000000000000000000000000aa/docker/ID\n",
                "/docker/00000000000000000000000000000000000000000000000000000000000000aa/docker/ID",
                "",
                "ID",
            ),
            // version 1 only, where systemd knows more than the controllers
            (
                "12:pids:/user.slice/user-0.slice\n1:name=systemd:/user.slice/user-0.slice/session-1.scope\n",
                "/user.slice/user-0.slice/session-1.scope",
                "session-1.scope",
                "",
            ),
            // version 1 only, without systemd
            ("9:name=systemd:/\n4:memory:/api/0bc8\n1:cpu:/\n0::/\n", "/api/0bc8", "", ""),
            (
                "0::/lxc.payload.web1/system.slice/cron.service\n",
                "/lxc.payload.web1/system.slice/cron.service",
                "cron.service",
                "web1",
            ),
            ("4:memory:/lxc/web1\n1:name=systemd:/lxc/web1\n", "/lxc/web1", "", "web1"),
            (
                "0::/machine.slice/machine-my\\x2dbox.scope/payload\n",
                "/machine.slice/machine-my\\x2dbox.scope/payload",
                "machine-my\\x2dbox.scope",
                "my-box",
            ),
            // seen from within a cgroup namespace; removed meanwhile
            ("0::/../../docker/ID (deleted)\n", "/../../docker/ID", "", "ID"),
        ];
        for (text, path, unit, container) in cases {
            let (found_path, found_unit, found_container) = read(text);
            assert_eq!(found_path, path);
            assert_eq!(found_unit.unwrap_or_default(), unit.replace("ID", ID), "{text}");
            assert_eq!(found_container.unwrap_or_default(), container, "{text}");
        }
    }

    #[test]
    fn what_only_looks_like_a_container_is_none() {
        for path in [
            "/lxc.monitor.web1",
            "/machine.slice/machine-qemu\\x2d1\\x2dvm.scope/libvirt",
            "/user.slice/user-0.slice/session-1.scope",
            // one digit short, one too many, a letter that is no digit
            &format!("/docker/{}", &ID[1..]),
            &format!("/docker/{ID}0"),
            &format!("/docker/g{}", &ID[1..]),
        ] {
            assert_eq!(container_of(path), None, "{path}");
        }
    }

    #[test]
    fn a_group_holds_what_is_below_it_and_nothing_beside_it() {
        let groups = Cgroups::parse("4:memory:/api/x\n0::/system.slice/a.service\n").unwrap();
        for written in
            ["/system.slice", "system.slice/", "/sys/fs/cgroup/system.slice/a.service", "/", "/api"]
        {
            assert!(groups.is_within(&group_path(written)), "{written}");
        }
        for written in ["/system", "/a.service", "/system.slice/a", "/sys/fs/cgroup/unified/api/y"] {
            assert!(!groups.is_within(&group_path(written)), "{written}");
        }
        // From within a cgroup namespace only the end of the path is known.
        let outside = Cgroups::parse("0::/../../system.slice/a.service\n").unwrap();
        assert!(outside.is_within("/system.slice"));
        assert!(outside.is_within("/../../system.slice"));
        assert!(!outside.is_within("/slice"));
    }

    #[test]
    fn nonsense_is_no_group() {
        for text in ["", "\n\n", "0::", "zzz", "1:name=systemd", "::relative\n"] {
            assert_eq!(Cgroups::parse(text), None, "{text:?}");
        }
        assert_eq!(unescape("a\\xzz"), None);
        assert_eq!(unescape("a\\x2"), None);
        assert_eq!(unescape("\\xff"), None);
    }
}

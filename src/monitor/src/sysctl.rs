//! Which kernel parameters a pod may have set, and where their files are.

/// The namespaces that were just made; a parameter outside them would change the whole node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Made {
    pub(crate) network: bool,
    pub(crate) ipc: bool,
    pub(crate) uts: bool,
}

/// The file of a parameter, or why it may not be set. Names are as sysctl(8) reads them: separated by dots, where a
/// slash stands for a dot inside a part (`net.ipv4.conf.eth0/1.forwarding`), or by slashes altogether.
pub(crate) fn file(name: &str, made: Made) -> Result<String, &'static str> {
    let separator = name
        .chars()
        .find(|c| matches!(c, '.' | '/'))
        .ok_or("not a sysctl name")?;
    let path: String = if separator == '/' {
        name.to_owned()
    } else {
        name.chars()
            .map(|c| match c {
                '.' => '/',
                '/' => '.',
                other => other,
            })
            .collect()
    };
    if path
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err("not a sysctl name");
    }
    let (namespaced, present) = match path.as_str() {
        _ if path.starts_with("net/") => (true, made.network),
        "kernel/sem" => (true, made.ipc),
        _ if ["kernel/shm", "kernel/msg", "fs/mqueue/"]
            .iter()
            .any(|prefix| path.starts_with(prefix)) =>
        {
            (true, made.ipc)
        }
        "kernel/domainname" | "kernel/hostname" => (true, made.uts),
        _ => (false, false),
    };
    match (namespaced, present) {
        (true, true) => Ok(format!("/proc/sys/{path}")),
        (true, false) => Err("the pod shares this namespace with the node"),
        (false, _) => Err("not a namespaced sysctl"),
    }
}

#[cfg(test)]
mod tests {
    use super::{Made, file};

    const ALL: Made = Made {
        network: true,
        ipc: true,
        uts: true,
    };

    #[test]
    fn names_become_files() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "/proc/sys/net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "/proc/sys/net/ipv4/conf/eth0.1/forwarding",
            ),
            ("kernel.shmmax", "/proc/sys/kernel/shmmax"),
            ("kernel.shm_rmid_forced", "/proc/sys/kernel/shm_rmid_forced"),
            ("kernel.msgmnb", "/proc/sys/kernel/msgmnb"),
            ("kernel.sem", "/proc/sys/kernel/sem"),
            ("fs.mqueue.msg_max", "/proc/sys/fs/mqueue/msg_max"),
            ("kernel.domainname", "/proc/sys/kernel/domainname"),
        ] {
            assert_eq!(file(name, ALL).as_deref(), Ok(path));
        }
    }

    #[test]
    fn the_node_stays_untouched() {
        for name in [
            "kernel.panic",
            "vm.swappiness",
            "fs.file-max",
            "kernel.semaphore",
            "net",
            "",
            "net..x",
            "net.ipv4./.x/../../kernel/panic",
            "net/../kernel/panic",
            "/net/ipv4/ip_forward",
            ".net.ipv4",
        ] {
            assert!(file(name, ALL).is_err(), "{name}");
        }
        let none = Made {
            network: false,
            ipc: false,
            uts: false,
        };
        for name in ["net.ipv4.ip_forward", "kernel.shmmax", "kernel.domainname"] {
            assert!(file(name, none).is_err(), "{name}");
        }
    }
}

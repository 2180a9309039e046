"""The machine's disk, kernel and booted snapshot, made from Debian packages once per change of their inputs.

A cache folder holds, each below a name that has the hash of its inputs in it:
  root-HASH/    vmlinux, initrd.gz, root.ext4 and the file `packages` that says what is in there
  booted-HASH   the same root booted once as far as the waiting agent: a qcow2 overlay with the internal snapshot `booted`
A folder is made below a name of its own and renamed when it is whole, so an interrupted run leaves nothing that is believed.
"""

import fcntl
import hashlib
import lzma
import pathlib
import shutil
import subprocess
import tempfile
import zlib

import machine

HERE = pathlib.Path(__file__).resolve().parent
GUEST = HERE / "guest"
SUITE = "bookworm"
ROOT_SIZE = "8G"
# What the initial ramdisk loads: see guest/init.
INITRD_MODULES = ["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk", "virtio_console"]
KERNEL = "linux-image-cloud-amd64"
# Loaded before the snapshot: without them the first test that wants one would wait for it, ten times slower than elsewhere.
GUEST_MODULES = ["overlay", "br_netfilter", "veth", "bridge", "nf_tables", "nf_nat", "xt_MASQUERADE", "xt_comment", "xt_conntrack",
                 "nft_compat", "loop", "erofs", "fuse", "tun", "iptable_nat", "ip6table_nat"]
# A node's own, beside what test/setup installs for the suite on every machine (`test/setup list`).
PACKAGES = ["systemd", "systemd-sysv", "dbus", "udev", "kmod", "apparmor", "procps", "iproute2", "iputils-ping", "less", "jq", "python3-minimal",
            "bash-completion", "man-db", "conntrack", "ipset", "socat", "ethtool"]


def digest(*parts):
    total = hashlib.sha256()
    for part in parts:
        data = part.read_bytes() if isinstance(part, pathlib.Path) else str(part).encode()
        total.update(len(data).to_bytes(8, "little") + data)
    return total.hexdigest()[:16]


def suite_packages():
    """What the suite needs, from the one list of it."""
    listed = subprocess.run([HERE.parent / "setup", "list"], check=True, capture_output=True, text=True).stdout.split()
    # A compiler has nothing to do there: programs come with the job.
    return [package for package in listed if package not in ("build-essential", "protobuf-compiler")]


def run(*command, **options):
    subprocess.run([str(word) for word in command], check=True, **options)


def vmlinux(image):
    """The uncompressed kernel within a bzImage: qemu boots it by PVH, past the decompressor, which is slow in emulation."""
    for magic, unpack in (
        (b"\xfd7zXZ\x00", lambda data: lzma.LZMADecompressor().decompress(data)),
        (b"\x1f\x8b\x08", lambda data: zlib.decompressobj(31).decompress(data)),
        (b"\x28\xb5\x2f\xfd", lambda data: subprocess.run(["zstd", "-dc"], input=data, capture_output=True).stdout),
        (b"\x02\x21\x4c\x18", lambda data: subprocess.run(["lz4", "-dc"], input=data, capture_output=True).stdout),
    ):
        at = image.find(magic)
        while at >= 0:
            try:
                kernel = unpack(image[at:])
            except (lzma.LZMAError, zlib.error):
                kernel = b""
            if kernel.startswith(b"\x7fELF"):
                return kernel
            at = image.find(magic, at + 1)
    raise SystemExit("vm: the kernel's image holds no compressed kernel that is understood")


def initrd(modules, busybox, to):
    with tempfile.TemporaryDirectory() as folder:
        tree = pathlib.Path(folder)
        for name in ("bin", "dev", "proc", "sys", "root", "modules"):
            (tree / name).mkdir()
        shutil.copy(busybox, tree / "bin/busybox")
        for name in ("sh", "mount", "umount", "insmod", "sleep", "switch_root", "poweroff"):
            (tree / "bin" / name).symlink_to("busybox")
        for name in INITRD_MODULES:
            found = next(modules.rglob(f"{name}.ko"), None)
            if found is None:
                raise SystemExit(f"vm: {KERNEL} has no module {name}.ko")
            shutil.copy(found, tree / "modules")
        shutil.copy(GUEST / "init", tree / "init")
        (tree / "init").chmod(0o755)
        with open(to, "wb") as file:
            run("sh", "-c", "find . | cpio --quiet -o -H newc | gzip -1", cwd=tree, stdout=file)


def build_root(folder):
    """Some minutes: packages, their configuration, an ext4 image. No loop device and no mount of ours."""
    work = folder / "work"
    work.mkdir()
    kernel = subprocess.run(["apt-cache", "depends", KERNEL], check=True, capture_output=True, text=True).stdout
    versioned = next((line.split()[1] for line in kernel.splitlines() if line.strip().startswith("Depends: linux-image-")), None)
    if versioned is None:
        raise SystemExit(f"vm: apt does not know {KERNEL}: run apt-get update")
    run("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", versioned, cwd=work)
    run("dpkg", "-x", next(work.glob("*.deb")), work / "kernel")
    (folder / "vmlinux").write_bytes(vmlinux(next((work / "kernel/boot").glob("vmlinuz-*")).read_bytes()))

    root = work / "root"
    packages = PACKAGES + suite_packages()
    print(f"vm: installing Debian {SUITE} and {len(packages)} packages", flush=True)
    run("mmdebstrap", "--quiet", "--variant=apt", "--mode=root", "--include=" + ",".join(packages),
        "--dpkgopt=force-unsafe-io", "--aptopt=Acquire::Languages none", SUITE, root)
    modules = work / "kernel/lib/modules"
    shutil.copytree(modules, root / "usr/lib/modules", dirs_exist_ok=True, symlinks=True)
    run("chroot", root, "depmod", next(modules.iterdir()).name)
    initrd(modules, root / "bin/busybox", folder / "initrd.gz")

    configure(root)
    listing = subprocess.run(["chroot", root, "dpkg-query", "-W"], check=True, capture_output=True, text=True).stdout
    (folder / "packages").write_text(f"{versioned}\n{listing}")
    # Without a journal of its file system: a machine that is thrown away has nothing to recover.
    run("mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-E", "lazy_itable_init=1", "-d", root, folder / "root.ext4", ROOT_SIZE)
    shutil.rmtree(work)


def configure(root):
    """What makes the tree a machine that boots fast into the agent, and nothing that a node would not have."""
    for source, target, mode in (("agent", "usr/local/sbin/vm-agent", 0o755), ("vm-agent.service", "etc/systemd/system/vm-agent.service", 0o644)):
        shutil.copy(GUEST / source, root / target)
        (root / target).chmod(mode)
    (root / "etc/hostname").write_text("node\n")
    (root / "etc/hosts").write_text("127.0.0.1 localhost\n::1 localhost\n127.0.1.1 node\n")
    (root / "etc/fstab").write_text("/dev/vda / ext4 noatime 0 0\n")
    (root / "etc/modules-load.d/vm.conf").write_text("\n".join(GUEST_MODULES) + "\n")
    (root / "etc/systemd/journald.conf.d").mkdir(exist_ok=True)
    (root / "etc/systemd/journald.conf.d/vm.conf").write_text("[Journal]\nStorage=volatile\nRateLimitBurst=0\nRuntimeMaxUse=200M\n")
    run("chroot", root, "systemctl", "--quiet", "enable", "vm-agent.service")
    for unit in ("apt-daily.timer", "apt-daily-upgrade.timer", "man-db.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer",
                 "e2scrub_reap.service", "docker-registry.service", "systemd-timesyncd.service", "nftables.service"):
        run("chroot", root, "systemctl", "--quiet", "mask", unit)


def build_snapshot(root, to):
    overlay = to / "disk.qcow2"
    run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", root / "root.ext4", overlay)
    with machine.Machine(root, overlay, None) as guest:
        guest.wait_until_ready(300)
        guest.settle()
        guest.command("savevm booted")


class Lock:
    """One builder per cache folder; others wait, and find what it made."""

    def __init__(self, cache):
        cache.mkdir(parents=True, exist_ok=True)
        self.file = open(cache / "lock", "w")

    def __enter__(self):
        fcntl.flock(self.file, fcntl.LOCK_EX)

    def __exit__(self, *_):
        self.file.close()


def made(cache, name, build):
    """`cache/name`, built by `build(folder)` unless it is there; older ones of its kind are removed."""
    final = cache / name
    if final.is_dir():
        return final
    kind = name.split("-")[0]
    for stale in cache.glob(f"{kind}-*"):
        shutil.rmtree(stale)
    scratch = cache / f"{kind}-unfinished"
    scratch.mkdir()
    build(scratch)
    scratch.rename(final)
    return final


def ready(cache):
    """The folders of the root and of its booted snapshot, built where they are missing."""
    with Lock(cache):
        inputs = [GUEST / "init", GUEST / "agent", GUEST / "vm-agent.service", HERE / "image.py", " ".join(suite_packages())]
        root_hash = digest(*inputs)
        root = made(cache, f"root-{root_hash}", build_root)
        version = subprocess.run([machine.QEMU, "--version"], check=True, capture_output=True, text=True).stdout
        booted_hash = digest(root_hash, HERE / "machine.py", version)
        booted = made(cache, f"booted-{booted_hash}", lambda folder: build_snapshot(root, folder))
        return root, booted

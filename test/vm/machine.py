"""One virtual machine: qemu in software emulation, its ports, and the jobs that it runs. KVM is not needed and not used."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import threading
import time

QEMU = "qemu-system-x86_64"
CPUS = 2
MEMORY_MIB = 3072
# The disk with the job must have the size that it had when the snapshot was taken; it is sparse.
JOB_BYTES = 3 << 30
KERNEL_LINE = ("console=ttyS0 quiet panic=-1 systemd.unified_cgroup_hierarchy=1 systemd.show_status=0 mitigations=off nokaslr tsc=reliable "
               "no_timer_check psi=1")


class Machine:
    """A running machine below a scratch folder; the end of the `with` block is its end, however that comes."""

    def __init__(self, root, overlay, job, snapshot=None):
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="pintle-vm."))
        self.console = self.folder / "console"
        self.results = self.folder / "results.tar"
        self.log = self.folder / "log"
        self.log.touch()
        disk = self.folder / "job.tar"
        with open(disk, "wb") as file:
            if job is not None:
                with tarfile.open(fileobj=file, mode="w") as archive:
                    archive.add(job, arcname=".")
            if file.tell() > JOB_BYTES:
                raise SystemExit(f"vm: the job {job} is larger than the {JOB_BYTES >> 20} MiB that fit on its disk")
            file.truncate(JOB_BYTES)
        command = [
            QEMU, "-accel", "tcg,thread=multi", "-M", "q35", "-cpu", "max", "-smp", str(CPUS), "-m", str(MEMORY_MIB),
            "-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{self.console}",
            "-kernel", root / "vmlinux", "-initrd", root / "initrd.gz", "-append", KERNEL_LINE,
            "-drive", f"id=root,if=none,file={overlay},format=qcow2,cache=unsafe,discard=unmap", "-device", "virtio-blk-pci,drive=root",
            "-drive", f"id=job,if=none,file={disk},format=raw,readonly=on", "-device", "virtio-blk-pci,drive=job",
            "-device", "virtio-serial-pci",
            "-chardev", f"socket,id=control,path={self.folder}/control,server=on,wait=off", "-device", "virtserialport,chardev=control,name=control",
            "-chardev", f"file,id=log,path={self.log}", "-device", "virtserialport,chardev=log,name=log",
            "-chardev", f"file,id=results,path={self.results}", "-device", "virtserialport,chardev=results,name=results",
            "-qmp", f"unix:{self.folder}/qmp,server=on,wait=off",
        ]
        if snapshot:
            command += ["-loadvm", snapshot]
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL)
        try:
            self.control = self._connect("control")
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder)

    def _connect(self, name):
        for _ in range(600):
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self.folder / name))
                return connection
            except OSError:
                connection.close()
                if self.process.poll() is not None:
                    raise SystemExit(f"vm: {QEMU} ended with status {self.process.returncode}")
                time.sleep(0.05)
        raise SystemExit(f"vm: {QEMU} does not open its socket {name}")

    def wait_until_ready(self, seconds):
        self.control.settimeout(seconds)
        try:
            answer = self.control.recv(64)
        except TimeoutError:
            answer = b""
        if not answer.startswith(b"ready"):
            raise SystemExit(f"vm: the machine did not boot within {seconds} s; the end of its console:\n" + self.console_end())

    def settle(self):
        """Boot goes on after the agent is there: until the machine's processor time stops growing fast, at most a minute."""
        last = None
        for _ in range(30):
            time.sleep(2)
            fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            spent = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if last is not None and spent - last < 0.4:
                return
            last = spent

    def command(self, line):
        """One line for qemu's human monitor."""
        connection = self._connect("qmp")
        lines = connection.makefile("r")
        lines.readline()
        for order in ({"execute": "qmp_capabilities"}, {"execute": "human-monitor-command", "arguments": {"command-line": line}}):
            connection.sendall(json.dumps(order).encode() + b"\n")
            while True:
                answer = json.loads(lines.readline())
                if "error" in answer or answer.get("return"):
                    raise SystemExit(f"vm: {QEMU} on `{line}`: {answer}")
                if "return" in answer:
                    break

    def console_end(self):
        return self.console.read_bytes()[-2000:].decode(errors="replace")

    def run(self, results, seconds, echo=True):
        """Runs the job on the disk; its results are unpacked to the folder `results`. The job's exit status, or None without one."""
        self.control.sendall(b"go %d\n" % time.time())
        over = threading.Event()
        if echo:
            threading.Thread(target=self._echo, args=(over,)).start()
        status = None
        try:
            try:
                self.process.wait(seconds)
            except subprocess.TimeoutExpired:
                print(f"vm: the job is not done after {seconds:.0f} s and is ended", file=sys.stderr)
                self.control.sendall(b"stop\n")
                try:
                    self.process.wait(120)
                except subprocess.TimeoutExpired:
                    print("vm: nor does the machine answer any more", file=sys.stderr)
                    self.process.kill()
                    self.process.wait()
        finally:
            over.set()
        results.mkdir(parents=True, exist_ok=True)
        try:
            with tarfile.open(self.results) as archive:
                archive.extractall(results, filter="data") if hasattr(tarfile, "data_filter") else archive.extractall(results)
            status = int((results / "status").read_text())
        except (tarfile.ReadError, OSError, ValueError) as error:
            print(f"vm: no results came back ({error}); the end of the console:\n{self.console_end()}", file=sys.stderr)
            shutil.copy(self.log, results / "output.txt")
        shutil.copy(self.console, results / "console.txt")
        return status

    def _echo(self, over):
        with open(self.log, "rb") as log:
            while True:
                ended = over.is_set()
                data = log.read()
                if data:
                    sys.stdout.buffer.write(data)
                    sys.stdout.buffer.flush()
                elif ended:
                    return
                else:
                    over.wait(0.1)

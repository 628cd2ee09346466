"""Which limits of control groups count, as both versions lay them out?"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ziggurat_engine.cgroup import cores, memory_bytes

MIB = 2**20
MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
CORES = len(os.sched_getaffinity(0))

NESTED = "0::/lab.slice/ziggurat.service\n"
V1 = "5:memory:/docker/4f\n1:cpu,cpuacct:/docker/4f\n9:name=systemd:/\n"


def machine(root: Path, own: str, **files: str) -> Path:
    """A root with /proc/self/cgroup and limits; a file's path has __ for each slash."""
    for name, text in {"proc/self/cgroup": own, **files}.items():
        path = (
            root / ("" if name.startswith("proc/") else "sys/fs/cgroup") / name.replace("__", "/")
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
    return root


LIMITS = {
    "none": ("0::/\n", {"memory.max": "max\n"}, MEMORY),
    "container": ("0::/\n", {"memory.max": f"{64 * MIB}\n"}, 64 * MIB),
    "service": (NESTED, {"lab.slice__ziggurat.service__memory.max": f"{64 * MIB}"}, 64 * MIB),
    "above": (
        NESTED,
        {
            "lab.slice__memory.max": f"{32 * MIB}",
            "lab.slice__ziggurat.service__memory.max": f"{64 * MIB}",
        },
        32 * MIB,
    ),
    "more than there is": ("0::/\n", {"memory.max": f"{2**60}"}, MEMORY),
    "version 1": (V1, {"memory__docker__4f__memory.limit_in_bytes": f"{64 * MIB}"}, 64 * MIB),
    "version 1 in a container": (V1, {"memory__memory.limit_in_bytes": f"{64 * MIB}"}, 64 * MIB),
    "version 1 without": (V1, {"memory__memory.limit_in_bytes": "9223372036854771712\n"}, MEMORY),
    "other controller": (V1, {"cpu__memory.limit_in_bytes": "1"}, MEMORY),
}


@pytest.mark.parametrize(("own", "files", "bytes_"), LIMITS.values(), ids=LIMITS)
def test_memory(tmp_path: Path, own: str, files: dict[str, str], bytes_: int) -> None:
    assert memory_bytes(machine(tmp_path, own, **files)) == bytes_


QUOTAS = {
    "none": ("0::/\n", {"cpu.max": "max 100000\n"}, CORES),
    "half a core": ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
    "one": (NESTED, {"lab.slice__ziggurat.service__cpu.max": "100000 100000\n"}, 1),
    "above": (NESTED, {"lab.slice__cpu.max": "1000 100000\n"}, 1),
    "rounded up": ("0::/\n", {"cpu.max": "100001 100000\n"}, min(CORES, 2)),
    "version 1": (
        V1,
        {
            "cpu__docker__4f__cpu.cfs_quota_us": "20000",
            "cpu__docker__4f__cpu.cfs_period_us": "100000",
        },
        1,
    ),
    "version 1 in a container": (
        V1,
        {"cpu__cpu.cfs_quota_us": "90000\n", "cpu__cpu.cfs_period_us": "100000\n"},
        1,
    ),
    "version 1 without": (
        V1,
        {"cpu__cpu.cfs_quota_us": "-1\n", "cpu__cpu.cfs_period_us": "100000\n"},
        CORES,
    ),
}


@pytest.mark.parametrize(("own", "files", "number"), QUOTAS.values(), ids=QUOTAS)
def test_cores(tmp_path: Path, own: str, files: dict[str, str], number: int) -> None:
    assert cores(machine(tmp_path, own, **files)) == number


def test_a_machine_without_control_groups(tmp_path: Path) -> None:
    assert (memory_bytes(tmp_path), cores(tmp_path)) == (MEMORY, CORES)


def test_a_group_of_its_own() -> None:
    """Where this process may make one: a child in it sees its limit."""
    groups = {
        Path("/sys/fs/cgroup/memory"): "memory.limit_in_bytes",
        Path("/sys/fs/cgroup"): "memory.max",
    }
    for mount, limit in groups.items():
        group = mount / f"ziggurat-test-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(512 * MIB))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        try:
            program = "from ziggurat_engine.cgroup import memory_bytes; print(memory_bytes())"
            enter = f'echo $$ > {group}/cgroup.procs && exec "$@"'
            command = ["/bin/sh", "-c", enter, "sh", sys.executable, "-c", program]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        finally:
            group.rmdir()
        assert int(done.stdout) == 512 * MIB
        return
    pytest.skip("control groups can't be made here")

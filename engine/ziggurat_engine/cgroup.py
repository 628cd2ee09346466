"""How much memory and how many cores may this process use?

What the machine has, or less where a control group limits it, as containers and services
do. A group is limited by those above it too. Version 2 is one tree; version 1 a tree for
each controller:

    /proc/self/cgroup    0::/system.slice/a.service         5:memory:/docker/4f6a
    limits               /sys/fs/cgroup/system.slice/       /sys/fs/cgroup/memory/docker/4f6a/
                         a.service/memory.max, cpu.max      memory.limit_in_bytes

In a container the path may be the one outside; its own group is then the root of what it
sees, which is where the way up ends.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def memory_bytes(root: Path = ROOT) -> int:
    """Memory of the machine, or the lowest limit above this process. root: of /proc and /sys."""
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for group in _groups(root, "memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            limits += _numbers(group / name)
    return min(limits)


def cores(root: Path = ROOT) -> int:
    """Cores this process may run on, or as many as its time is enough for, rounded up."""
    limits = [float(len(os.sched_getaffinity(0)))]
    for group in _groups(root, "cpu"):
        quota = _numbers(group / "cpu.max")
        if not quota:
            quota = _numbers(group / "cpu.cfs_quota_us") + _numbers(group / "cpu.cfs_period_us")
        if len(quota) == 2 and min(quota) > 0:
            limits.append(quota[0] / quota[1])
    return math.ceil(min(limits))


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """The directory of this process's group, and those above, as far as they can be seen."""
    try:
        lines = (root / "proc/self/cgroup").read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")
        group = PurePosixPath(path)
        for above in (group, *group.parents):
            yield mount / above.relative_to("/")


def _numbers(file: Path) -> list[int]:
    """The numbers in a file; none where it says "max", or is not there."""
    try:
        words = file.read_text("utf-8").split()
        return [int(word) for word in words]
    except (OSError, ValueError):
        return []

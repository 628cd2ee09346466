"""Does a program that reads keep the memory of its messages, unless it is told otherwise?"""

import os
import platform
import subprocess
import sys

import pytest

KEPT = """
import re, ziggurat
client = ziggurat.connect("127.0.0.1:1")
blocks = [bytearray(b"x") * 2**22 for _ in range(8)]
del blocks
print(re.search(r"RssAnon:\\s+(\\d+)", open("/proc/self/status").read())[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="malloc is not glibc's")
def test_freed_memory_is_kept_for_the_next_message():
    def kib(**said):
        plain = {name: value for name, value in os.environ.items() if "MALLOC" not in name}
        plain.pop("GLIBC_TUNABLES", None)
        command = [sys.executable, "-c", KEPT]
        return int(subprocess.check_output(command, env=plain | said, timeout=60))

    left_alone = kib(MALLOC_MMAP_THRESHOLD_="131072")
    assert kib() > left_alone + 24 * 1024

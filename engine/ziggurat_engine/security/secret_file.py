"""How does a file that only its owner may read get new content, all of it or none?"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from ziggurat_engine.vfs import OsFileSystem


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Makes `data` the content of `path`, atomically; durable when it returns.

    Nobody but the owner can read it before it has its mode. The owner stays: an administrator
    who changes it does not take it from the server. OSError, and the old content is there
    as it was.
    """
    fs = OsFileSystem()
    new = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    file = fs.create(new)
    try:
        os.chmod(new, mode)
        with contextlib.suppress(FileNotFoundError, PermissionError):
            old = os.stat(path)
            if old.st_uid != os.geteuid():
                os.chown(new, old.st_uid, old.st_gid)
        file.write(data)
        file.sync()
        file.close()
        fs.rename(new, path)
    except BaseException:
        file.close()
        with contextlib.suppress(OSError):
            fs.remove(new)
        raise
    fs.sync_dir(path.parent)

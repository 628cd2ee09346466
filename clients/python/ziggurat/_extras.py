"""Which parts of the client need an optional package, and what is said where it is missing?

The client alone is numpy, grpcio and protobuf. A module that needs more is imported by the
call that needs it, through here, and by nothing else.
"""

from __future__ import annotations

import importlib
from typing import Any


def extra(package: str, module: str, what: str) -> Any:
    """The module `module` of this package, which imports `package`.

    what: the name that was called. Raises ImportError that names the extra, which is called
    as the package is.
    """
    try:
        importlib.import_module(package)
    except ImportError as missing:
        raise ImportError(
            f"{what} needs {package}: pip install 'ziggurat-client[{package}]'"
        ) from missing
    return importlib.import_module(f"ziggurat.{module}")

"""Passwords from the environment or a file: a command line is open to everybody on the machine."""

from __future__ import annotations

import os
from pathlib import Path

from edgewf.errors import EdgewfError


def secret(variable: str) -> str | None:
    """Return the value of a variable, or what is in the file that VARIABLE_FILE names, or None.

    Raises:
        EdgewfError: both are set, the file cannot be read, or the secret is empty.
    """
    value, path = os.environ.get(variable), os.environ.get(f"{variable}_FILE")
    if value is not None and path is not None:
        raise EdgewfError(f"{variable} and {variable}_FILE are both set: unset one")
    if path is not None:
        try:
            value = Path(path).read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise EdgewfError(f"{variable}_FILE: cannot read {path}: {error}") from error
    if value == "":
        raise EdgewfError(f"{variable} is empty: set it, or unset it")
    return value

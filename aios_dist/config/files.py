"""Reading what a user names: a file, or standard input, up to a size that no such text has."""

from __future__ import annotations

import os
from typing import BinaryIO

from aios_dist.errors import InvalidInput

MOST = 64 * 1024 * 1024
"""Bytes."""


def read_text(file: str | os.PathLike[str] | BinaryIO, name: str | None = None) -> str:
    """The text of a file, or of an open one.

    Args:
        file: its path, or a file that is open in binary mode.
        name: what it is called in an error; its path by default.

    Raises:
        InvalidInput: it is larger than 64 MiB; a device (``/dev/zero``) may have no end.
        OSError: it cannot be read.
        UnicodeDecodeError: it is not UTF-8.
    """
    if isinstance(file, (str, os.PathLike)):
        with open(file, "rb") as opened:
            return read_text(opened, repr(os.fspath(file)))
    data = file.read(MOST + 1)
    if len(data) > MOST:
        raise InvalidInput(f"{name or 'the file'} is larger than {MOST >> 20} MiB.")
    return data.decode("utf-8")

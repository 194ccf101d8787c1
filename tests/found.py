"""Files that tests look at."""

from __future__ import annotations

from pathlib import Path


def files(folder: Path, pattern: str) -> list[Path]:
    """Those below the folder that are named so, at any depth with ``**/``; sorted.

    Raises:
        AssertionError: there is none. A test that looks at nothing says that all is well.
    """
    found = sorted(path for path in folder.glob(pattern) if path.is_file())
    assert found, f"there is no {pattern} in {folder}"
    return found

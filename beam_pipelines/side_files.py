"""Files beside the input that decide what is kept: lists of hosts and expressions, evaluation items. They count by content."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path

from ja_llm.errors import UsageError
from ja_llm.files import os_error_sentence, sha256_file


def digests(paths: Iterable[str | Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name as it was given.

    Raises:
      UsageError: one does not exist.
      JaLlmError: one can't be read.
    """
    found = {}
    for path in paths:
        try:
            stat = os.stat(path)
            found[str(path)] = _digest(str(path), stat.st_mtime_ns, stat.st_size)
        except FileNotFoundError:
            raise UsageError(f"{path}: there is no such file; check the path in the gin configuration.") from None
        except OSError as error:
            raise os_error_sentence(error, path, reading=True) from error
    return found


@functools.cache
def _digest(path: str, changed: int, size: int) -> str:
    return sha256_file(path)

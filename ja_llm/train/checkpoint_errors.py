"""What a checkpoint that can't be written or read is said to be: full disk, rights, memory, damage."""

import contextlib
import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ja_llm.errors import JaLlmError
from ja_llm.files import os_error_sentence


def first_line(error: BaseException) -> str:
    """The first line of an error's message, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


@contextlib.contextmanager
def writable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while the checkpoint `path` is written into its sentence."""
    try:
        yield
    except JaLlmError:
        raise
    except Exception as error:  # orbax and TensorStore raise many kinds: a full disk is a ValueError
        raise unwritable(path, error) from error


def unwritable(path: Path, error: BaseException) -> JaLlmError:
    """The sentence for a checkpoint that can't be written: a full disk, rights, or whatever else was said."""
    number, text = _errno(error), str(error)
    if number is None and ("No space left" in text or ("RESOURCE_EXHAUSTED" in text and "memory" not in text)):
        number = errno.ENOSPC
    if number is not None:
        return os_error_sentence(OSError(number, os.strerror(number)), path)
    return JaLlmError(
        f"{path}: a checkpoint could not be written ({type(error).__name__}: {first_line(error)}); run the same command with "
        "--debug to see where."
    )


@contextlib.contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what goes wrong while the checkpoint `path` is read into its sentence."""
    try:
        yield
    except JaLlmError as error:
        raise type(error)(f"{path}: {error}") from error
    except Exception as error:  # orbax and TensorStore raise many kinds
        raise unreadable(path, error) from error


class Damaged(JaLlmError):
    """A checkpoint whose files are not what was written; the one before may be whole."""


# What to do about one; a run puts its own case in place of it.
REMEDY = "remove it to go on from the one before, or make it again."

# What a file that is not there, or is something else than it should be, raises: damage, and no fault of disk or rights.
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR)


def unreadable(path: Path, error: BaseException) -> JaLlmError:
    """The sentence for a checkpoint that can't be read; only one that is surely damaged is said to be removed."""
    while type(error) is Exception and error.__cause__ is not None:  # orbax wraps what a chunk's reader raised in a bare one
        error = error.__cause__
    number = _errno(error)
    text = f"{type(error).__name__} {error}"
    if isinstance(error, MemoryError) or number == errno.ENOMEM:
        return _too_large(path, error)
    if number is not None and number not in _ABSENT:
        return os_error_sentence(OSError(number, os.strerror(number)), path, reading=True)
    if re.search(r"RESOURCE_EXHAUSTED|[Oo]ut of memory|bad_alloc", text):
        return _too_large(path, error)
    if isinstance(error, ValueError | LookupError | EOFError | OSError):  # bytes that are not what was written
        return Damaged(f"{path}: this checkpoint is damaged ({first_line(error)}); {REMEDY}")
    return JaLlmError(
        f"{path}: this checkpoint could not be restored ({type(error).__name__}: {first_line(error)}); keep it, and run the same "
        "command with --debug to see where."
    )


def _too_large(path: Path, error: BaseException) -> JaLlmError:
    return JaLlmError(
        f"{path}: there is not enough memory to restore this checkpoint ({first_line(error)}); free some, or spread the model over "
        "more devices (MESH)."
    )


def _errno(error: BaseException | None) -> int | None:
    """The system's error number in an exception or in what led to it; TensorStore writes it into its message."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        found = re.search(r"os_error_code='(\d+)'", str(error))
        if found:
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None

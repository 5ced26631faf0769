"""The command that is launched: what may be read from it, and names that go into other people's files."""

import ast
import re
import shlex
from collections.abc import Sequence

from ja_llm.errors import UsageError

JOINING = ("--coordinator_address", "--process_count", "--process_index")


def check_command(words: Sequence[str]) -> list[str]:
    """The command behind `--`.

    Raises:
      UsageError: there is none, or it says already who its processes are.
    """
    command = list(words[1:] if words[:1] == ["--"] else words)
    if not command:
        raise UsageError(
            "no command is given; write it behind two dashes, e.g. ja-llm launch local -- ja-llm train --gin_file=..."
        )
    if set_already := [word for word in command if word.split("=")[0] in JOINING]:
        raise UsageError(f"{set_already[0]}: the launcher gives each process its own; leave it out.")
    if bad := [word for word in command if re.search(r"[\0\r\n]", word)]:
        raise UsageError(f"the command's argument {bad[0]!r} has a line break in it; put it into a gin file.")
    return command


def joined_by_itself(command: list[str]) -> list[str]:
    """The command of a process that asks TPU's or Slurm's own variables who it is."""
    return [*command, "--coordinator_address=auto"]


def macro(command: Sequence[str], name: str) -> str | None:
    """What `--gin.NAME=VALUE` binds; None where the command does not say."""
    value = None
    for word in command:
        if word.startswith(f"--gin.{name}="):
            value = word.split("=", 1)[1]
    if value is None:
        return None
    try:
        return str(ast.literal_eval(value))
    except (ValueError, SyntaxError):  # gin takes a bare path, too
        return value


def check_name(flag: str, name: str, longest: int = 40) -> str:
    """A name that Kubernetes, Google Cloud and Slurm all take (RFC 1035 label).

    Raises:
      UsageError: it is none.
    """
    if not re.fullmatch(rf"[a-z]([-a-z0-9]{{0,{longest - 2}}}[a-z0-9])?", name):
        raise UsageError(
            f"{flag} {name!r}: a name is {longest} characters at most, small letters, digits and dashes, and begins with a letter."
        )
    return name


def check_word(
    flag: str,
    word: str,
    pattern: str = r"[A-Za-z0-9_][-A-Za-z0-9_.:/@+,=]*",
    allowed: str = "letters, digits, -_.:/@+,=, the first a letter, a digit or _",
) -> str:
    """A value without spaces, quotes or anything that a shell, YAML or Slurm reads.

    Raises:
      UsageError: it is none.
    """
    if not re.fullmatch(pattern, word):
        raise UsageError(f"{flag} {word!r}: it has a character that can't stand there; give a plain value ({allowed}).")
    return word


def line(words: Sequence[str]) -> str:
    """Words as a shell reads them back."""
    return shlex.join(words)

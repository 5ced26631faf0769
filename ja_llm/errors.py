"""Errors that a user may meet: one sentence that names the input, what is wrong with it and what to do."""


class JaLlmError(Exception):
    """The work could not be done. `ja-llm` prints the sentence and exits with 1."""

    exit_code = 1


class UsageError(JaLlmError):
    """The call was wrong (a bad flag, a path that is not there). `ja-llm` exits with 2."""

    exit_code = 2


class InputError(UsageError, ValueError):
    """An argument of a library function does not fit: said as what was given and what is possible."""

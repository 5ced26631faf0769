"""Token ids to text while they come: whole characters only, nothing of a stop text, nothing taken back."""

from collections.abc import Sequence
from typing import Any

BROKEN = "\ufffd"  # what a tokenizer gives for bytes that are no character, or not yet


class TextStream:
    """Text of tokens that follow a prompt.

    A character may be spelt with several byte tokens and a stop text may begin in one token and end in another: what could
    still become either is held back. Bytes that never become a character give no text.

    Args:
      tokenizer: `ja_llm.vocab.base.Tokenizer`.
      prompt: ids before the new ones, without BOS: a tokenizer may drop a leading space of what it takes for a text's begin.
      stop: the text ends before the first of these, the one that is complete first.
    """

    def __init__(self, tokenizer: Any, prompt: Sequence[int], stop: Sequence[str] = ()):
        self._tokenizer, self._stop = tokenizer, [text for text in stop if text]
        self._ids, self._told = list(prompt), len(prompt)  # ids that give context, and how many of them are told already
        self._before = tokenizer.decode(self._ids)
        self._held = ""
        self.stopped = False

    def add(self, ids: Sequence[int]) -> str:
        """Take further ids (without EOS); gives the text that is sure now. After a stop text there is none."""
        return "".join(self._add_one(token) for token in ids)

    def finish(self) -> str:
        """The rest, where no stop text was met: what was held back, without a character's first bytes."""
        if self.stopped:
            return ""
        text = self._until_stop(self._new(end=True))
        rest, self._held = self._held, ""
        return text + rest

    def _add_one(self, token: int) -> str:
        if self.stopped:
            return ""
        self._ids.append(token)
        return self._until_stop(self._new())

    def _new(self, end: bool = False) -> str:
        """Text of the ids that are not told yet, "" while it ends inside a character."""
        whole = self._tokenizer.decode(self._ids)
        if len(self._ids) == self._told or (whole.endswith(BROKEN) and not end):
            return ""
        new, fresh = whole[len(self._before) :], self._ids[self._told :]
        # What comes next is decoded behind these alone: a long text is not decoded again for each token.
        if before := self._tokenizer.decode(fresh):
            self._ids, self._before = fresh, before
        else:
            self._before = whole
        self._told = len(self._ids)
        return new.replace(BROKEN, "")

    def _until_stop(self, new: str) -> str:
        text = self._held + new
        if (place := first_stop(text, self._stop)) is not None:
            self.stopped, self._held = True, ""
            return text[:place]
        held = max((n for stop in self._stop for n in range(1, len(stop)) if text.endswith(stop[:n])), default=0)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def first_stop(text: str, stop: Sequence[str]) -> int | None:
    """Where the stop text begins that is complete first (the longest of those that end together); None: there is none."""
    ends = [(place + len(s), place) for s in stop if s and (place := text.find(s)) >= 0]
    return min(ends)[1] if ends else None

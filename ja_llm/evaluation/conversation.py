"""How a conversation becomes a prompt: the form of `--chat` and `--judge_chat`."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.evaluation.chat_template import special_ids
from ja_llm.evaluation.continuations import text_ends
from ja_llm.files import read_json
from ja_llm.vocab.base import Tokenizer


@dataclasses.dataclass(frozen=True)
class Chat:
    """How a conversation becomes a prompt. The texts of special tokens in it, such as <|im_start|>, are these tokens.

    Attributes:
      user: stands around the user's text, which is written {text}.
      assistant: stands before the assistant's answer; with it a prompt ends.
      between: stands behind an answer.
      stop: texts at which an answer ends.
    """

    user: str = "ユーザー: {text}\n"
    assistant: str = "アシスタント: "
    between: str = "\n"
    stop: tuple[str, ...] = ("\nユーザー:",)

    def prompt(self, said: Sequence[str]) -> str:
        """The prompt for the next answer; `said` alternates, the user's text first and last."""
        text = "".join(
            self.user.replace("{text}", t) if n % 2 == 0 else f"{self.assistant}{t}{self.between}" for n, t in enumerate(said)
        )
        return text + self.assistant

    def ids(self, tokenizer: Tokenizer, said: Sequence[str]) -> list[int]:
        """Token ids of `prompt`, BOS first.

        Raises:
          JaLlmError: a form that is not the plain one needs the tokenizer's special tokens, and it has no tokenizer.json.
        """
        text = self.prompt(said)
        ids = tokenizer.encode(text) if self in (PLAIN, QUESTION_ALONE) else special_ids(tokenizer, text)
        return ids if ids[:1] == [tokenizer.bos_id] else [tokenizer.bos_id, *ids]

    def ends(self, loaded: Any) -> list[int]:
        """Ids that end an answer: those of the model, and stop texts that are one special token, which no text shows."""
        tokenizer = loaded.tokenizer
        stops = [special_ids(tokenizer, text) for text in self.stop] if self not in (PLAIN, QUESTION_ALONE) else []
        special = {ids[0] for ids, text in zip(stops, self.stop, strict=False) if len(ids) == 1 and tokenizer.encode(text) != ids}
        return sorted({*text_ends(loaded), *special})


PLAIN = Chat()
QUESTION_ALONE = Chat(user="{text}", assistant="", between="", stop=())


def read_chat(path: str | Path) -> Chat:
    """How a conversation becomes a prompt, from a JSON object with the fields of `Chat`.

    Raises:
      UsageError: it is none.
    """
    value = read_json(path, "chat format")
    names = {field.name for field in dataclasses.fields(Chat)}
    if not isinstance(value, dict) or set(value) - names or "{text}" not in value.get("user", "{text}"):
        raise UsageError(
            f"{path}: this chat format is no object of {', '.join(sorted(names))} with {{text}} in user; correct it."
        )
    return Chat(**{**value, **({"stop": tuple(value["stop"])} if "stop" in value else {})})

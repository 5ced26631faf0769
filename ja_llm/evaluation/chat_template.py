"""Dialogues as a tokenizer's own chat template writes them, with the ids that `transformers` gives for them.

A template is Jinja text that comes with a checkpoint, so it runs in Jinja's sandbox. It sees what `transformers` shows it (its documentation,
"Chat templates"): messages, add_generation_prompt, the special tokens' texts, raise_exception, strftime_now, tojson, break and continue.
"""

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.vocab.base import Tokenizer

_HERE = "\u2063ja_llm continues here\u2063"  # in no text; cut off again


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
      tokenizer: has one.

    Raises:
      UsageError: it has none.
      JaLlmError: it is no Jinja text, or the tokenizer has no tokenizer.json with equal ids.
    """

    def __init__(self, tokenizer: Tokenizer):
        if tokenizer.chat_template is None:
            raise UsageError(
                "this model has no chat template (vocab/chat_template.jinja); put its own there, or evaluate without apply_chat_template."
            )
        self._tokenizer = tokenizer
        self._template = _compiled(tokenizer.chat_template)

    def render(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = True) -> str:
        """The dialogue as text.

        Args:
          messages: of "role" and "content".
          add_generation_prompt: the text ends where an answer begins; else inside the last message, which is to be continued.

        Raises:
          JaLlmError: the template refuses the dialogue.
        """
        import jinja2

        said = [dict(message) for message in messages]
        if not add_generation_prompt:
            said[-1]["content"] = f"{said[-1]['content']}{_HERE}"
        ids = {"bos_token": self._tokenizer.bos_id, "eos_token": self._tokenizer.eos_id}
        special = {name: self._tokenizer.id_to_piece(index) for name, index in ids.items()}
        try:
            text: str = self._template.render(messages=said, add_generation_prompt=add_generation_prompt, **special)
        except (jinja2.TemplateError, TypeError) as error:
            raise JaLlmError(
                f"the chat template refuses this dialogue ({error}); correct the messages or the template."
            ) from error
        return text if add_generation_prompt else text[: text.rindex(_HERE)] if _HERE in text else text

    def encode(self, text: str) -> list[int]:
        """Ids of a rendered text: special tokens in it are themselves, which `Tokenizer.encode` never makes of a text."""
        return special_ids(self._tokenizer, text)


def special_ids(tokenizer: Tokenizer, text: str) -> list[int]:
    """Ids of a text in which the texts of special tokens are these tokens, as `transformers` reads it; without BOS.

    Raises:
      JaLlmError: the tokenizer has no tokenizer.json with equal ids.
    """
    return list(_spelling(tokenizer).encode(text, add_special_tokens=False).ids)


@functools.lru_cache(maxsize=4)
def _spelling(own: Tokenizer) -> Any:
    import tokenizers

    from ja_llm.vocab.export import tokenizer_json
    from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer

    text = json.dumps(tokenizer_json(own)) if isinstance(own, SentencePieceTokenizer) else getattr(own, "model_text", None)
    if text is None:
        raise JaLlmError("this tokenizer has no tokenizer.json, so the special tokens of a conversation have no ids.")
    return tokenizers.Tokenizer.from_str(text)


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> Any:
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError as error:
        raise JaLlmError(
            "jinja2: this package is not installed, and chat templates are written in it; pip install jinja2."
        ) from error

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    # Indented tags leave no white space, as in transformers' environment, which templates are written for.
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = functools.partial(json.dumps, ensure_ascii=False)
    environment.globals.update(raise_exception=refuse, strftime_now=lambda form: datetime.datetime.now().strftime(form))
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise JaLlmError(f"this model's chat template is no Jinja text ({error}); put the model's own there.") from error

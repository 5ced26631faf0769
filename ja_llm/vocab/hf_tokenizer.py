"""Tokenizer over a Hugging Face `tokenizers` model (byte-level BPE of SmolLM2, Llama 3, Qwen, ...)."""

import functools
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, read_json, sha256_json, write_json
from ja_llm.vocab.base import HF_FILE, Tokenizer, check_text


class HFTokenizer(Tokenizer):
    """A `tokenizer.json`.

    Args:
      model: text of the tokenizer.json.
      bos_id, eos_id: their ids; where only one is known it serves as both.
      unk_id: id of the unknown piece; what the model says when None.

    Raises:
      JaLlmError: the text is no such model, or BOS and EOS are both unknown or outside the vocabulary.
    """

    def __init__(self, model: str, bos_id: int | None = None, eos_id: int | None = None, unk_id: int | None = None):
        import tokenizers

        self._model = model
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(model)
        except Exception as error:  # the Rust side raises bare Exception
            if "Unknown tokenizer version" in str(error):
                raise JaLlmError(
                    f"this tokenizer.json is of a newer format ({str(error)[:60]}); update the tokenizers library"
                ) from error
            if part := re.search(r"untagged enum (?:Py)?(\w+?)(?:Untagged|Wrapper)\b", str(error)):
                raise JaLlmError(
                    f"the {part[1]} of this tokenizer.json is of a kind that is not known here, as one of a newer format is; update the "
                    "tokenizers library"
                ) from error
            raise JaLlmError(f"this is no tokenizer.json ({str(error)[:200]})") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._tokenizer.encode_special_tokens = True  # "</s>" inside a text is text
        self._tokenizer.post_processor = None  # adds BOS, which is ours to add, and may cut spaces off the offsets
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        self._vocab_size = max(ids, default=-1) + 1
        if bos_id is None and eos_id is None:
            raise JaLlmError('nothing says which ids are BOS and EOS; add special_ids.json such as {"bos": 1, "eos": 2}')
        self._bos_id: int = bos_id if bos_id is not None else eos_id  # type: ignore[assignment]
        self._eos_id: int = eos_id if eos_id is not None else bos_id  # type: ignore[assignment]
        if not (0 <= self._bos_id < self._vocab_size and 0 <= self._eos_id < self._vocab_size):
            raise JaLlmError(f"BOS {self._bos_id} or EOS {self._eos_id} is outside this vocabulary of {self._vocab_size} pieces")
        unk = getattr(self._tokenizer.model, "unk_token", None)
        self._unk_id = unk_id if unk_id is not None else self._tokenizer.token_to_id(unk) if unk else None

    @classmethod
    def from_file(cls, path: str | os.PathLike, **special_ids: int) -> "HFTokenizer":
        """Load a `tokenizer.json`; BOS and EOS from `special_ids`, else from the Hugging Face files beside it."""
        path = Path(path)
        try:
            text = path.read_bytes().decode("utf-8")
            return cls(text, **(_special_ids_beside(path, text) | special_ids))
        except (OSError, UnicodeDecodeError) as error:
            raise JaLlmError(f"{path}: this tokenizer can't be read ({error}).") from error
        except JaLlmError as error:
            raise JaLlmError(f"{path}: {str(error).rstrip('.')}; put the model's own tokenizer file here.") from error

    def __reduce__(self) -> tuple:
        return HFTokenizer, (self._model, self._bos_id, self._eos_id, self._unk_id), {"chat_template": self.chat_template}

    @property
    def vocab_size(self) -> int:
        return self._vocab_size

    @property
    def bos_id(self) -> int:
        return self._bos_id

    @property
    def eos_id(self) -> int:
        return self._eos_id

    @property
    def unk_id(self) -> int | None:
        return self._unk_id

    @functools.cached_property
    def zero_is_real(self) -> bool:
        special = {token["id"] for token in self.model_json.get("added_tokens") or [] if token.get("special")}
        return 0 in (self._bos_id, self._eos_id, self._unk_id) or 0 not in special

    @property
    def model_text(self) -> str:
        """The tokenizer.json."""
        return self._model

    @functools.cached_property
    def model_json(self) -> dict[str, Any]:
        """The tokenizer.json, parsed; not to be changed.

        Raises:
          JaLlmError: a piece stands twice in it (JSON parsers silently take the last).
        """
        return json.loads(self._model, object_pairs_hook=_once)

    def with_model(
        self, value: dict[str, Any], bos_id: int | None = None, eos_id: int | None = None, unk_id: int | None = None
    ) -> "HFTokenizer":
        """A tokenizer of another tokenizer.json, with this one's chat template, and its BOS, EOS and unknown ids where no others are given."""
        given = ((bos_id, self._bos_id), (eos_id, self._eos_id), (unk_id, self._unk_id))
        other = HFTokenizer(json.dumps(value, ensure_ascii=False), *(own if i is None else i for i, own in given))
        other.chat_template = self.chat_template
        return other

    @functools.cached_property
    def fingerprint(self) -> str:
        value = self.model_json
        model = dict(value.get("model", {}))
        if "merges" in model:  # written as "a b" by older versions, as ["a", "b"] by newer ones
            model["merges"] = [m.split(" ", 1) if isinstance(m, str) else m for m in model["merges"]]
        content = {key: value.get(key) for key in ("normalizer", "pre_tokenizer", "decoder", "added_tokens")}
        return sha256_json({"kind": "tokenizers", "model": model, "special": [self._bos_id, self._eos_id], **content})

    def encode(self, text: str) -> list[int]:
        # As a batch of one: the library then lets Python's lock go, which tf.data's threads wait for, and computes no offsets.
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        for text in texts:
            check_text(text)
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[int]) -> str:
        ids = [int(i) for i in ids]
        self._check_ids(ids)
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def decode_batch(self, batch: Sequence[Sequence[int]]) -> list[str]:
        rows = [[int(i) for i in ids] for ids in batch]
        for ids in rows:
            self._check_ids(ids)
        return self._tokenizer.decode_batch(rows, skip_special_tokens=True)

    def _check_ids(self, ids: Sequence[int]) -> None:
        wrong = [i for i in ids if not 0 <= i < self._vocab_size]
        if wrong:
            raise JaLlmError(
                f"id {wrong[0]} is outside this vocabulary of {self._vocab_size} pieces; the ids belong to another one."
            )

    def encode_with_offsets(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        check_text(text)
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        return encoding.ids, list(encoding.offsets)

    def id_to_piece(self, index: int) -> str:
        if not 0 <= index < self._vocab_size:
            raise JaLlmError(f"id {index} is outside this vocabulary of {self._vocab_size} pieces.")
        return self._tokenizer.id_to_token(index) or ""

    def _save_model(self, directory: Path) -> None:
        with atomic_write(directory / HF_FILE) as file:
            file.write(self._model.encode("utf-8"))

    def export_hf(self, directory: str | os.PathLike) -> None:
        directory = Path(directory)
        self.save(directory)
        config = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": self.id_to_piece(self._bos_id),
            "eos_token": self.id_to_piece(self._eos_id),
            "clean_up_tokenization_spaces": False,
        }
        if self._unk_id is not None:
            config["unk_token"] = self.id_to_piece(self._unk_id)
        write_json(directory / "tokenizer_config.json", config)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise JaLlmError(f"{twice!r} stands twice in this tokenizer.json; put the model's own file in its place.")
    return found


def _special_ids_beside(path: Path, text: str) -> dict[str, int]:
    """`bos_id` and `eos_id` as the Hugging Face files beside `path` say them, as far as they do.

    config.json and generation_config.json carry ids; tokenizer_config.json and special_tokens_map.json carry pieces.
    """
    found: dict[str, int] = {}
    for name in ("generation_config.json", "config.json"):
        value = _json_object(path.parent / name)
        for key in ("bos", "eos"):
            token_id = value.get(f"{key}_token_id")
            token_id = token_id[0] if isinstance(token_id, list) and token_id else token_id
            if isinstance(token_id, int):
                found[f"{key}_id"] = token_id
    ids = _piece_ids(text)
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        value = _json_object(path.parent / name)
        for key in ("bos", "eos"):
            token = value.get(f"{key}_token")
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str) and token in ids:
                found[f"{key}_id"] = ids[token]
    return found


def _json_object(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    value = read_json(path, "Hugging Face configuration")
    return value if isinstance(value, dict) else {}


def _piece_ids(text: str) -> dict[str, int]:
    """piece -> id of a tokenizer.json, added tokens included; {} when it is none (its own error comes later)."""
    try:
        value = json.loads(text)
        vocab = value["model"]["vocab"]
        ids = dict(vocab) if isinstance(vocab, dict) else {piece: i for i, (piece, _) in enumerate(vocab)}
        return ids | {token["content"]: token["id"] for token in value.get("added_tokens") or []}
    except (ValueError, KeyError, TypeError):
        return {}

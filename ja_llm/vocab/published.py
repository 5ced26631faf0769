"""The tokenizer files that a model was published with: kept beside ours, handed on by an export as they came.

    DIR/published/NAME      as it lay in the Hugging Face folder that the model was imported from

A tokenizer.json can say less than a tokenizer.model does, and a tokenizer_config.json more than we use (the padding token, its side, the
longest text); so, while the vocabulary is the published one, nothing is translated. Of a vocabulary that was changed since (expanded,
trimmed) the settings alone go on.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, read_json, write_json, write_text
from ja_llm.vocab.base import (
    CHAT_TEMPLATE_FILE,
    HF_FILE,
    PUBLISHED_FOLDER,
    SENTENCEPIECE_FILE,
    Tokenizer,
    load_tokenizer,
    read_chat_template,
)

CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"
_MODELS = (HF_FILE, SENTENCEPIECE_FILE)
NAMES = (*_MODELS, CONFIG, SPECIAL, "added_tokens.json", "vocab.json", "merges.txt")
# Settings of tokenizer_config.json that hold for a changed vocabulary too.
_PLAIN = ("model_max_length", "padding_side", "truncation_side", "model_input_names")
_TOKENS = ("pad_token", "cls_token", "sep_token", "mask_token")
_TOKEN_LISTS = ("additional_special_tokens", "extra_special_tokens")


def read(folder: Path) -> dict[str, bytes]:
    """The tokenizer files of a Hugging Face folder, by name."""
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).is_file()}


def settings(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Those of the files that say something about a vocabulary that was changed since."""
    return {name: files[name] for name in (CONFIG, SPECIAL) if name in files}


def export(tokenizer: Tokenizer, directory: Path) -> str:
    """Write a tokenizer for `transformers`, as `Tokenizer.export_hf`, by its published files where they are this tokenizer.

    Args:
      tokenizer: what to write.
      directory: where; it exists.

    Returns:
      what was written, for people.

    Raises:
      JaLlmError: it can't be written with equal ids, and was not published as it is.
    """
    files = tokenizer.published
    same = _gives(tokenizer, files)
    if HF_FILE in files and same and _spells_alike(tokenizer, files[HF_FILE]):
        _write_unchanged(tokenizer, directory)
        return "the source's own tokenizer files, unchanged"
    try:
        tokenizer.export_hf(directory)
    except JaLlmError as error:
        if not same or isinstance(error.__cause__, OSError):  # a full disk is no matter of the tokenizer
            raise
        _write_unchanged(tokenizer, directory)
        return f"the source's own tokenizer files, unchanged; {str(error).split(';')[0]}"
    _carry_settings(tokenizer, directory)
    return f"{HF_FILE} as ja_llm writes it" + (", with the source's settings" if files else "")


def adds_bos(tokenizer: Tokenizer) -> bool:
    """Whether `transformers` puts BOS before a text with what `export` writes."""
    text: bytes | str = tokenizer.published.get(HF_FILE, b"") or getattr(tokenizer, "model_text", "")
    if not text:
        return _object(tokenizer.published.get(CONFIG)).get("add_bos_token", True) is not False
    return _begins_with(_object(text).get("post_processor"), tokenizer.id_to_piece(tokenizer.bos_id))


def _begins_with(processor: Any, piece: str) -> bool:
    if not isinstance(processor, dict):
        return False
    if processor.get("type") == "Sequence":
        return any(_begins_with(part, piece) for part in processor.get("processors") or [])
    single = processor.get("single") if processor.get("type") == "TemplateProcessing" else None
    first = single[0] if isinstance(single, list) and single else {}
    return isinstance(first, dict) and (first.get("SpecialToken") or {}).get("id") == piece


def _gives(tokenizer: Tokenizer, files: Mapping[str, bytes]) -> bool:
    """Whether the files hold this very tokenizer."""
    if not any(name in files for name in _MODELS):
        return False
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        ids = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id, "unk": tokenizer.unk_id}
        write_json(Path(folder) / "special_ids.json", ids)
        try:
            return load_tokenizer(folder).fingerprint == tokenizer.fingerprint
        except JaLlmError:
            return False


def _spells_alike(tokenizer: Tokenizer, text: bytes) -> bool:
    """Whether a published tokenizer.json gives this tokenizer's ids; it was made from the tokenizer.model by somebody else."""
    from ja_llm.vocab.export import check_ids
    from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer

    if not isinstance(tokenizer, SentencePieceTokenizer):
        return True
    try:
        check_ids(tokenizer, text.decode("utf-8"))
    except Exception:  # the Rust side raises bare Exception for what is no tokenizer.json
        return False
    return True


def _write_unchanged(tokenizer: Tokenizer, directory: Path) -> None:
    tokenizer.save(directory)  # special_ids.json and the chat template; the model's own file is written over
    shutil.rmtree(directory / PUBLISHED_FOLDER, ignore_errors=True)
    for name, data in tokenizer.published.items():
        with atomic_write(directory / name) as file:
            file.write(data)
    template = directory / CHAT_TEMPLATE_FILE
    template.unlink(missing_ok=True)
    if (
        tokenizer.chat_template is not None and read_chat_template(directory) != tokenizer.chat_template
    ):  # not in the configuration
        write_text(template, tokenizer.chat_template)


def _carry_settings(tokenizer: Tokenizer, directory: Path) -> None:
    """Into the tokenizer_config.json that `export_hf` wrote: the published settings, of tokens those that there still are."""
    shutil.rmtree(directory / PUBLISHED_FOLDER, ignore_errors=True)
    theirs = _object(tokenizer.published.get(SPECIAL)) | _object(tokenizer.published.get(CONFIG))
    if not theirs:
        return
    pieces = {tokenizer.id_to_piece(i) for i in range(tokenizer.vocab_size)}
    found: dict[str, Any] = {name: theirs[name] for name in _PLAIN if name in theirs}
    found |= {name: token for name in _TOKENS if (token := _content(theirs.get(name))) in pieces}
    for name in _TOKEN_LISTS:
        if isinstance(theirs.get(name), list) and (tokens := [t for t in map(_content, theirs[name]) if t in pieces]):
            found[name] = tokens
    write_json(directory / CONFIG, {**found, **read_json(directory / CONFIG)})


def _content(token: Any) -> Any:
    """The text of a token that may be an object with its text in it."""
    return token.get("content") if isinstance(token, dict) else token if isinstance(token, str) else None


def _object(data: bytes | str | None) -> dict[str, Any]:
    """A JSON object; {} where there is none."""
    try:
        value = json.loads(data) if data else {}
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

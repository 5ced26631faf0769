"""The tokenizer inside a GGUF file: byte-level BPE as a tokenizer.json, SentencePiece as a model of its own kind.

A file names its way of cutting text before the merges with one word (`tokenizer.ggml.pre`); the cuts behind the words are
those of the tokenizer.json that each word's models are published with.
"""

import json
from collections.abc import Mapping
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.sentencepiece_tokenizer import BPE, BYTE, CONTROL, UNKNOWN, USER_DEFINED, SentencePieceTokenizer

# Llama 3's cut: contractions, letters with one mark before them, up to three digits, marks, line ends, spaces.
_LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def _byte_level(use_regex: bool, prefix: bool) -> dict[str, Any]:
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": use_regex}


def _pre_tokenizer(word: Any, prefix: bool) -> dict[str, Any] | None:
    """The pre_tokenizer of tokenizer.json behind a word; None: not known here."""
    if word == "gpt-2":
        return _byte_level(True, prefix)
    if word in ("smollm", "starcoder", "refact", "command-r"):
        return {
            "type": "Sequence",
            "pretokenizers": [{"type": "Digits", "individual_digits": True}, _byte_level(True, prefix)],
        }
    if word in ("llama-bpe", "llama3", "llama-v3"):
        cut = {"type": "Split", "pattern": {"Regex": _LLAMA3}, "behavior": "Isolated", "invert": False}
        return {"type": "Sequence", "pretokenizers": [cut, _byte_level(False, prefix)]}
    return None


def read_tokenizer(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that a file's metadata describe, with its chat template; arguments and errors as of `_read`."""
    tokenizer, template = _read(metadata, where), metadata.get("tokenizer.chat_template")
    if isinstance(template, str) and template:
        tokenizer.chat_template = template
    return tokenizer


def _read(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer itself.

    Args:
      metadata: of the file.
      where: its path, for messages.

    Raises:
      JaLlmError: there is none, it is of a kind that is not known here, or its lists do not fit together.
    """
    kind = metadata.get("tokenizer.ggml.model")
    tokens = metadata.get("tokenizer.ggml.tokens")
    if kind not in ("gpt2", "llama") or not isinstance(tokens, list):
        said = "no tokenizer" if kind is None else f"a tokenizer of the kind {kind!r}"
        raise JaLlmError(f"{where}: the file has {said}; take one with byte-level BPE (gpt2) or SentencePiece (llama).")
    types = metadata.get("tokenizer.ggml.token_type", [1] * len(tokens))
    if len(types) != len(tokens) or len(set(tokens)) != len(tokens):
        raise JaLlmError(f"{where}: its lists of tokens and their types do not fit together; download the file again.")
    ids = {name: metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos", "unknown")}
    try:
        if kind == "llama":
            return _sentencepiece(metadata, tokens, types, ids)
        return HFTokenizer(
            json.dumps(_byte_level_bpe(metadata, tokens, types, ids["bos"], where), ensure_ascii=False), ids["bos"], ids["eos"]
        )
    except (KeyError, IndexError, TypeError, ValueError, JaLlmError) as error:
        if isinstance(error, JaLlmError) and str(error).startswith(where):
            raise
        raise JaLlmError(f"{where}: its tokenizer can't be used ({error}); take a file of a newer conversion.") from error


def _byte_level_bpe(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], bos: int | None, where: str
) -> dict[str, Any]:
    word = metadata.get("tokenizer.ggml.pre")
    cut = _pre_tokenizer(word, bool(metadata.get("tokenizer.ggml.add_space_prefix", False)))
    if cut is None:
        raise JaLlmError(
            f"{where}: its tokenizer cuts texts in the way {word!r}, which is not known here (gpt-2, smollm, llama-bpe are); "
            "import the model's safetensors, whose tokenizer.json says it."
        )
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    added = [
        {"id": i, "content": token, **plain, "special": types[i] == CONTROL}
        for i, token in enumerate(tokens)
        if types[i] in (CONTROL, USER_DEFINED)
    ]
    after: dict[str, Any] = _byte_level(True, False)
    if metadata.get("tokenizer.ggml.add_bos_token", False) and bos is not None:
        first = {"SpecialToken": {"id": tokens[bos], "type_id": 0}}
        text, second = ({"Sequence": {"id": name, "type_id": n}} for n, name in enumerate("AB"))
        named = {tokens[bos]: {"id": tokens[bos], "ids": [bos], "tokens": [tokens[bos]]}}
        after = {"type": "TemplateProcessing", "single": [first, text], "pair": [first, text, second], "special_tokens": named}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": cut,
        "post_processor": after,
        "decoder": _byte_level(True, False),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            # Llama 3 has pieces that its merges don't reach; they are taken whole.
            "ignore_merges": word in ("llama-bpe", "llama3", "llama-v3"),
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in metadata["tokenizer.ggml.merges"]],
        },
    }


def _sentencepiece(
    metadata: Mapping[str, Any], tokens: list[str], types: list[int], ids: Mapping[str, int | None]
) -> SentencePieceTokenizer:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    for token, score, kind in zip(tokens, metadata["tokenizer.ggml.scores"], types, strict=True):
        proto.pieces.add(piece=token, score=score, type=kind)  # their numbers of the types are SentencePiece's
    spec, rules = proto.trainer_spec, proto.normalizer_spec
    spec.model_type, spec.byte_fallback, spec.vocab_size = BPE, BYTE in types, len(tokens)
    unknown = types.index(UNKNOWN) if UNKNOWN in types else ids["unknown"] or 0
    spec.unk_id, spec.unk_piece = unknown, tokens[unknown]
    for name in ("bos", "eos"):
        place = ids[name]
        setattr(spec, f"{name}_id", -1 if place is None else place)
        if place is not None:
            setattr(spec, f"{name}_piece", tokens[place])
    rules.name, rules.escape_whitespaces = "identity", True
    rules.add_dummy_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    rules.remove_extra_whitespaces = bool(metadata.get("tokenizer.ggml.remove_extra_whitespaces", False))
    return SentencePieceTokenizer(proto.SerializeToString(), ids["bos"], ids["eos"])

"""SentencePiece model -> the files that `transformers.AutoTokenizer` loads, with equal ids.

The translation, and why each part is what it is:

- normaliser: prepend "▁", then replace every space by "▁". SentencePiece does so to the whole text whatever it begins
  with. `Metaspace(prepend_scheme="first")` would not do: it adds no mark to a text that begins with a space.
- no pre-tokenizer: pieces may cross any boundary that the vocabulary crosses.
- merges of a BPE: SentencePiece merges the adjacent pair whose joined piece has the highest score, the leftmost on ties. So
  every split of a piece into two pieces is a merge, ranked by the score of the whole.
- a unigram's pieces and scores: see `ja_llm.vocab.export_unigram`.
- user-defined pieces of a BPE, which the text is cut at before anything merges: added tokens that are looked for in the normalised
  text; both libraries take the leftmost, of these the longest. Where a mark goes before each text, it would go before
  each such token's name too, so that model is refused.
- byte fallback: a character that is no piece becomes its UTF-8 bytes, which never merge.
- the class written is PreTrainedTokenizerFast: it takes tokenizer.json as it is, while LlamaTokenizer would rebuild
  normaliser and pre-tokenizer in its own way.

Control pieces are special tokens there, as in every Llama release: `transformers` reads "</s>" inside a text as EOS
unless it is called with `split_special_tokens=True`; ours never does.
"""

import random
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.files import atomic_write, canonical_json, write_json
from ja_llm.vocab.base import HF_FILE, Tokenizer
from ja_llm.vocab.export_unigram import equally_likely, unigram_model
from ja_llm.vocab.sentencepiece_tokenizer import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    WORD_START,
    SentencePieceTokenizer,
)


def export_sentencepiece(tokenizer: SentencePieceTokenizer, directory: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json, tokenizer.model and special_ids.json into `directory`.

    Raises:
      JaLlmError: the model has something that a tokenizer.json can't say with equal ids (a normaliser other than
        identity, unused pieces, user-defined ones beside a space before each text, equal scores, a piece with a character that
        is no piece), or the self-check finds a text with other ids.
    """
    value = tokenizer_json(tokenizer)
    check_ids(tokenizer, canonical_json(value))
    tokenizer.save(directory)
    with atomic_write(directory / HF_FILE) as file:
        file.write(canonical_json(value).encode())
    pieces = {f"{name}_token": tokenizer.id_to_piece(i) for name, i in _named_ids(tokenizer).items()}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        **pieces,
    }
    write_json(directory / "tokenizer_config.json", config)


def not_exportable(tokenizer: Tokenizer) -> str | None:
    """The sentence that an export of this tokenizer would end in, as far as it can be told without the self-check; None where it has none."""
    try:
        if isinstance(tokenizer, SentencePieceTokenizer):
            tokenizer_json(tokenizer)
    except JaLlmError as error:
        return str(error)
    return None


def _named_ids(tokenizer: SentencePieceTokenizer) -> dict[str, int]:
    named = {"bos": tokenizer.bos_id, "eos": tokenizer.eos_id}
    return named if tokenizer.unk_id is None else named | {"unk": tokenizer.unk_id}


def tokenizer_json(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    """The content of tokenizer.json for a SentencePiece BPE or unigram model."""
    proto = tokenizer.proto
    _refuse_unsupported(proto)
    if proto.trainer_spec.model_type == BPE:
        model, pre_tokenizer = _bpe_model(tokenizer), None
    else:
        model, pre_tokenizer = unigram_model(proto, tokenizer.unk_id, _refuse)
    prefix = proto.normalizer_spec.add_dummy_prefix
    bos = tokenizer.id_to_piece(tokenizer.bos_id)
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START}
    decoder: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": WORD_START}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    added = (CONTROL, UNKNOWN, USER_DEFINED) if proto.trainer_spec.model_type == BPE else (CONTROL, UNKNOWN)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": i,
                "content": p.piece,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": p.type == USER_DEFINED,
                "special": p.type != USER_DEFINED,
            }
            for i, p in enumerate(proto.pieces)
            if p.type in added
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": WORD_START}, replace]}
        if prefix
        else replace,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": bos, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                {"SpecialToken": {"id": bos, "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": bos, "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {bos: {"id": bos, "ids": [tokenizer.bos_id], "tokens": [bos]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": decoder + ([{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if prefix else []),
        },
        "model": model,
    }


def _bpe_model(tokenizer: SentencePieceTokenizer) -> dict[str, Any]:
    proto = tokenizer.proto
    return {
        "type": "BPE",
        "dropout": None,
        "unk_token": tokenizer.id_to_piece(tokenizer.unk_id) if tokenizer.unk_id is not None else None,
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": proto.trainer_spec.byte_fallback,
        "ignore_merges": False,
        "vocab": {p.piece: i for i, p in enumerate(proto.pieces)},
        "merges": merges(proto),
    }


def merges(proto: Any) -> list[list[str]]:
    """Every (left, right) whose join is a piece, the piece with the highest score first.

    Splits of one piece stand together, shortest left part first; which of them comes first can only matter where two
    splits of the same piece overlap in a text.
    """
    normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
    ranked: list[tuple[float, int, str, str]] = []
    for piece, score in normal.items():
        splits = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        ranked.extend((-score, len(left), left, right) for left, right in splits if left in normal and right in normal)
    return [[left, right] for _, _, left, right in sorted(ranked)]


def _refuse(reason: str) -> None:
    raise JaLlmError(
        f"this vocabulary can't be written as tokenizer.json with equal ids, {reason}; "
        "distribute its tokenizer.model instead and load that with the sentencepiece library."
    )


def _refuse_unsupported(proto: Any) -> None:
    refuse, rules = _refuse, proto.normalizer_spec
    if proto.trainer_spec.model_type not in (BPE, UNIGRAM):
        refuse("it is neither a BPE nor a unigram model")
    if rules.precompiled_charsmap or rules.remove_extra_whitespaces or not rules.escape_whitespaces:
        refuse(f"its normaliser ({rules.name or 'unnamed'}) changes more than spaces")
    if proto.denormalizer_spec.precompiled_charsmap:
        refuse("it rewrites text when it decodes")
    if proto.trainer_spec.treat_whitespace_as_suffix:
        refuse("it puts the mark of a space after the word")
    bpe = proto.trainer_spec.model_type == BPE
    if unused := [p.piece for p in proto.pieces if p.type == UNUSED]:
        refuse(f"it has unused pieces such as {unused[0]!r}")
    own = {p.piece for p in proto.pieces if bpe and p.type == USER_DEFINED}
    if own and rules.add_dummy_prefix:
        refuse(f"it has user-defined pieces such as {min(own)!r} and also puts a space before each text")
    normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
    scores: dict[float, str] = {}
    for piece, score in normal.items() if bpe else ():
        if len(piece) > 1 and scores.setdefault(score, piece) != piece:
            refuse(f"the pieces {scores[score]!r} and {piece!r} have the same score")
        missing = [c for c in piece if c not in normal and c not in own]
        if missing:
            refuse(f"the piece {piece!r} has the character {missing[0]!r}, which is no piece itself")


def check_ids(tokenizer: SentencePieceTokenizer, text: str) -> None:
    """Compare ids on every piece, on random sequences of pieces and on runs of one character."""
    import tokenizers

    other = tokenizers.Tokenizer.from_str(text)
    other.encode_special_tokens = True
    proto = tokenizer.proto
    surfaces = [p.piece.replace(WORD_START, " ") for p in proto.pieces if p.type in (NORMAL, BYTE, USER_DEFINED)]
    draw = random.Random(0)
    samples = surfaces + ["".join(draw.choices(surfaces, k=12)) for _ in range(2000)]
    samples += [c * n for c in " -=#\n0a。ー" for n in range(1, 40)]
    for sample, ours, theirs in zip(
        samples, tokenizer.encode_batch(samples), other.encode_batch(samples, add_special_tokens=False), strict=True
    ):
        rounded = proto.trainer_spec.model_type == UNIGRAM and equally_likely(proto, ours, theirs.ids)
        if ours != theirs.ids and not rounded:
            raise JaLlmError(
                f"the exported tokenizer.json would give other ids for {sample!r}: {theirs.ids[:20]} instead of {ours[:20]}; "
                "distribute the tokenizer.model of this vocabulary instead."
            )

"""How many pieces to add: what each size saves in tokens and costs in tables, as FLOPs per byte of text.

A larger vocabulary spells a byte in fewer tokens, and makes each token dearer by the rows of the head. The FLOPs of a token are those
of MFU (`ja_llm.train.flops`: causal attention at the mean position of a row, windows, the experts that a token goes through); the
lookup of an embedding row is free. Training is three times the forward pass; decoding is the forward pass of one token at a time with
a cache. All are multiplied by tokens per byte on held-out text.
"""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import gin

from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.certify import tokens_per_character
from ja_llm.vocab.initialise import padding_for
from ja_llm.vocab.kinds import kind_of
from ja_llm.vocab.train import iter_texts

SCHEMA = "ja_llm.vocab_sweep/1"
_WIDTH = {"float32": 4, "bfloat16": 2, "float16": 2}


@gin.configurable
def sweep_model(
    model_path: str | os.PathLike,
    documents_root: str | os.PathLike,
    sizes: Sequence[int],
    lang: str = "ja",
    share: float = 0.9,
    other_lang: str = "en",
    pad_to: int = 128,
    limit_chars: int = 100_000_000,
    sample_chars: int = 300_000,
    tolerance: float = 0.02,
    seed: int = 0,
) -> dict[str, Any]:
    """Expand a model's vocabulary by each size, without its weights, and say what each would cost.

    Args:
      model_path: model directory, or `DIR@STEP`; only its configuration and vocabulary are read.
      documents_root: document set: pieces from its train split, figures on its held-out one (train where it has none).
      sizes: numbers of pieces to add.
      lang: language to add pieces for.
      share: share of this language in the bytes of the training mixture; the rest is `other_lang`.
      other_lang: the language to keep; not looked at where the share is 1.
      pad_to: tables are padded to a multiple of this, which costs too.
      limit_chars: characters to learn pieces on.
      sample_chars: characters of each language that the figures are measured on.
      tolerance: see the rule in the result.
      seed: of the samples.

    Returns:
      {"schema", "rule": a sentence, "recommended": pieces to add, "rows": one dict a size, 0 first}. Plain JSON values.

    Raises:
      UsageError: no sizes, or a share outside [0, 1]; the set lacks a language.
      JaLlmError: the vocabulary can't be expanded.
    """
    from ja_llm.train.checkpoints import read_model_files, split_step

    if not sizes or min(sizes) < 1 or not 0 <= share <= 1:
        raise UsageError(f"sizes {list(sizes)} and share {share}: give sizes from 1, such as 2000,4000, and a share from 0 to 1.")
    directory = split_step(str(model_path))[0]
    if not directory.exists():
        raise UsageError(f"{directory}: this model directory does not exist.")
    config, base = read_model_files(directory)
    names = (lang,) if share == 1 else (lang, other_lang)
    samples = {name: _sample(documents_root, name, sample_chars, seed) for name in names}
    kind = kind_of(base)
    rows = [_row(config, base, base.vocab_size, samples, lang, share, pad_to)]
    for size in sorted(set(sizes)):
        expansion = kind.expand(iter_texts(documents_root, lang, "train", limit_chars, seed), size)
        rows.append(_row(config, expansion.tokenizer, base.vocab_size, samples, lang, share, pad_to))
        if len(expansion.pieces) < size / 2:  # the text has no more: larger sizes are this one again
            break
    return {
        "schema": SCHEMA,
        "model": {"vocabulary": base.fingerprint, "vocab_size": base.vocab_size},
        "settings": {"lang": lang, "share": share, "other_lang": other_lang, "pad_to": pad_to, "seed": seed},
        **recommend(rows, tolerance),
        "rows": rows,
    }


def _sample(root: str | os.PathLike, lang: str, characters: int, seed: int) -> list[str]:
    try:
        return list(iter_texts(root, lang, "heldout", characters, seed))
    except UsageError:
        return list(iter_texts(root, lang, "train", characters, seed))


def _row(
    config: DecoderConfig,
    tokenizer: Tokenizer,
    base_size: int,
    samples: dict[str, list[str]],
    lang: str,
    share: float,
    pad_to: int,
) -> dict[str, Any]:
    """Figures of one vocabulary. Rows that pad the tables are counted in `table_*` and in FLOPs."""
    size = tokenizer.vocab_size + padding_for(tokenizer.vocab_size, pad_to)
    grown = dataclasses.replace(config, vocab_size=size, padding_ids=0)
    tokens = {name: tokens_per_byte(tokenizer, texts) for name, texts in samples.items()}
    other = next((name for name in tokens if name != lang), lang)
    mixed = share * tokens[lang] + (1 - share) * tokens[other]
    forward = forward_flops(grown)
    parameters = size * config.embed_dim * (1 if config.tie_embeddings else 2)
    return {
        "added": tokenizer.vocab_size - base_size,
        "vocab_size": tokenizer.vocab_size,
        "table_rows": size,
        "table_parameters": parameters,
        "table_bytes": parameters * _WIDTH[config.param_dtype],
        "training_state_bytes": parameters * (_WIDTH[config.param_dtype] + 8),  # and two float32 moments
        "tokens_per_byte": tokens,
        "tokens_per_japanese_character": tokens_per_character(tokenizer, samples[lang]),
        "training_flops_per_byte": 3 * forward * mixed,
        "decoding_flops_per_byte": forward * tokens[lang],
    }


def tokens_per_byte(tokenizer: Tokenizer, texts: Iterable[str]) -> float:
    """Tokens of the texts over their UTF-8 bytes."""
    texts = list(texts)
    size = sum(len(text.encode("utf-8")) for text in texts)
    if not size:
        raise UsageError("the texts to measure on are empty; give a document set with some text in both languages.")
    return sum(map(len, tokenizer.encode_batch(texts))) / size


def forward_flops(config: DecoderConfig) -> float:
    """Forward FLOPs of a token at the mean position of a row of `max_length` tokens, trained or decoded."""
    from ja_llm.train.flops import flops_per_token

    return flops_per_token(config, config.max_length) / 3


def recommend(rows: Sequence[dict[str, Any]], tolerance: float) -> dict[str, Any]:
    """The smallest size whose training cost per byte is near the least one, and the rule in words."""
    least = min(row["training_flops_per_byte"] for row in rows)
    chosen = min((row for row in rows if row["training_flops_per_byte"] <= least * (1 + tolerance)), key=lambda row: row["added"])
    return {
        "rule": f"the fewest added pieces whose predicted training FLOPs per byte of the mixture are within {tolerance:.0%} of the least",
        "recommended": chosen["added"],
    }


def format_sweep(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    settings = result["settings"]
    lines = [
        f"{'added':>8} {'rows':>8} {'table MB':>9} {'tok/byte ' + settings['lang']:>12} {'tok/char':>9} {'train':>8} {'decode':>8}"
    ]
    first = result["rows"][0]
    for row in result["rows"]:
        relative = [row[key] / first[key] for key in ("training_flops_per_byte", "decoding_flops_per_byte")]
        per_character = row["tokens_per_japanese_character"]
        lines.append(
            f"{row['added']:>8} {row['table_rows']:>8} {row['table_bytes'] / 1e6:>9.1f} {row['tokens_per_byte'][settings['lang']]:>12.4f} "
            f"{per_character if per_character is not None else float('nan'):>9.3f} {relative[0]:>8.3f} {relative[1]:>8.3f}"
        )
    lines.append("train, decode: FLOPs per byte, of those without new pieces")
    lines.append(f"recommended: {result['recommended']} pieces ({result['rule']})")
    return "\n".join(lines)


def write_sweep(result: dict[str, Any], out_dir: Path, svg: str) -> None:
    """Write `sweep.json` and `sweep.svg`."""
    from ja_llm.files import atomic_write, write_json

    write_json(out_dir / "sweep.json", result)
    with atomic_write(out_dir / "sweep.svg") as file:
        file.write(svg.encode("utf-8"))

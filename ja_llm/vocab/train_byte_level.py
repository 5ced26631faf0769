"""Training byte-level BPE (GPT-2's kind: Radford et al. 2019), saved as tokenizer.json."""

import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

import gin

from ja_llm.errors import JaLlmError
from ja_llm.progress import track
from ja_llm.vocab.hf_tokenizer import HFTokenizer

PADDING, BOS, EOS = "<|padding|>", "<|bos|>", "<|eos|>"
_CHUNK = 10_000  # characters handed over at once; the trainer cuts into words anyway


@gin.configurable
def train_byte_level(
    texts: Iterable[str],
    out_dir: str | os.PathLike,
    vocab_size: int = 32000,
    special_tokens: tuple[str, ...] = (),
    max_piece_length: int | None = 16,
    min_count: int = 2,
    align: int = 8,
) -> HFTokenizer:
    """Train a byte-level BPE and save it.

    Set up as SmolLM2's is: digits one by one, then GPT-2's pattern; no normaliser; every byte is a piece. Id 0 is a padding token that
    no text is spelt with, so that software which takes 0 for padding loses nothing; BOS is 1, EOS 2, further special tokens follow.

    Args:
      texts: training texts, read once; the trainer holds their words and counts in memory, not the texts.
      out_dir: the tokenizer's folder.
      vocab_size: number of pieces, of which 259 are special tokens and bytes. Fewer come back where the text has no more.
      special_tokens: further ones, e.g. those of a chat template.
      max_piece_length: longest piece in bytes as the library counts them (its characters for bytes); None for no limit.
      min_count: leave out merges that fire fewer times.
      align: where the text has too few pieces, their number is a multiple of this.

    Raises:
      JaLlmError: no text, a vocabulary size below what is always there, or a special token twice.
    """
    special = (PADDING, BOS, EOS, *special_tokens)
    if len(set(special)) < len(special) or "" in special:
        raise JaLlmError(
            f"the special tokens {', '.join(map(repr, special))} must differ and not be empty; change those that don't."
        )
    if vocab_size < 256 + len(special):
        raise JaLlmError(
            f"{vocab_size} pieces are asked for, but 256 bytes and {len(special)} special tokens are always there; ask for more."
        )
    value = _train(texts, vocab_size, special, max_piece_length, min_count)
    found = len(value["model"]["vocab"])
    if found < vocab_size:
        value = _first(value, max(found - found % align, 256 + len(special)))
    model = HFTokenizer(json.dumps(value, ensure_ascii=False), bos_id=1, eos_id=2)
    model.save(out_dir)
    return model


def _first(value: dict[str, Any], size: int) -> dict[str, Any]:
    """The first pieces of a trained tokenizer.json, which are what training for so many would have given.

    Merges are learnt one after the other, and the last that training for `size` pieces learns is the one that makes the last of them.
    """
    model = value["model"]
    made = {a + b: n for n, (a, b) in reversed(list(enumerate(model["merges"])))}
    vocab = {piece: i for piece, i in model["vocab"].items() if i < size}
    last = max((made[piece] for piece in vocab if piece in made), default=-1)
    return {**value, "model": {**model, "vocab": vocab, "merges": model["merges"][: last + 1]}}


def _train(
    texts: Iterable[str], vocab_size: int, special: tuple[str, ...], longest: int | None, min_count: int
) -> dict[str, Any]:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    model = tokenizers.Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_count,
        special_tokens=list(special),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        max_token_length=longest,
        show_progress=False,
    )
    empty, failed = True, None

    def chunks() -> Iterator[str]:
        nonlocal empty, failed
        try:
            for text in track(texts, "read by the trainer, which then trains in silence", "text"):
                empty = empty and not text.strip()
                for start in range(0, len(text) if text.strip() else 0, _CHUNK):
                    yield text[start : start + _CHUNK].encode("utf-8", "replace").decode("utf-8")
        except Exception as error:
            failed = error
            raise

    try:
        model.train_from_iterator(chunks(), trainer)
    except Exception:
        if failed is not None:  # the library may hand it on as another one
            raise failed from None
        raise
    if failed is not None:
        raise failed
    if empty:
        raise JaLlmError("there is no text to train a vocabulary on; check the language and split of the document set.")
    return json.loads(model.to_str())

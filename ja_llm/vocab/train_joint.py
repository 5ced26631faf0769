"""One unigram vocabulary out of a model for each language (LLM-jp's tokenizer: github.com/llm-jp/llm-jp-tokenizer, v2).

Each language gets a SentencePiece unigram model of its own size and longest piece, so that none is crowded out by the larger
one. Their pieces are joined without duplicates: the word-start mark is stripped from Japanese pieces, since running text has none. The
scores of different models can't be compared, so all are estimated anew by EM on the joint text, which is not cut into
words. Special pieces, the newline and the 256 bytes lead with the score 0.

What differs from LLM-jp: its 24 runs of spaces are no special pieces here; the models learn those that occur.
"""

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import gin

from ja_llm.errors import JaLlmError
from ja_llm.progress import track
from ja_llm.vocab.japanese import JAPANESE, is_japanese
from ja_llm.vocab.sentencepiece_tokenizer import (
    BYTE,
    CONTROL,
    NORMAL,
    UNIGRAM,
    UNKNOWN,
    USER_DEFINED,
    WORD_START,
    SentencePieceTokenizer,
    parse_proto,
)
from ja_llm.vocab.train import MARKED, lines_of, marked_lines, sample, train_model
from ja_llm.vocab.unigram import normalised, reestimate

_MAX_STRETCH = 200  # characters; longer ones are cut


@dataclasses.dataclass
class Part:
    """One language.

    Attributes:
      name: for messages.
      texts: its training texts; read once.
      size: how many pieces its own model has.
      max_piece_length: longest piece in characters, the word-start mark included.
      japanese: keep pieces of Japanese characters alone, without word-start mark; else those without any Japanese character.
      segments: cut before training, see `ja_llm.vocab.train.train_sentencepiece`.
    """

    name: str
    texts: Iterable[str]
    size: int
    max_piece_length: int = 16
    japanese: bool = False
    segments: str | None = None


@gin.configurable
def train_joint(
    parts: Sequence[Part],
    out_dir: str | os.PathLike,
    special_tokens: tuple[str, ...] = (),
    epochs: int = 2,
    limit_chars: int = 100_000_000,
    estimate_chars: int = 3_000_000,
    character_coverage: float = 0.9995,
    align: int = 8,
    seed: int = 0,
) -> SentencePieceTokenizer:
    """Train and save a joint vocabulary.

    Args:
      parts: the languages; where two have the same piece the first one's stays.
      out_dir: the tokenizer's folder.
      special_tokens: control pieces behind <unk>, <s> and </s>.
      epochs: EM steps; LLM-jp takes two.
      limit_chars: characters of each language to train on, sampled by line.
      estimate_chars: characters of each language for EM, sampled from those.
      character_coverage: as `train_sentencepiece` takes it, for each language.
      align: the number of pieces is a multiple of this, by leaving out the rarest of two characters and more; the others share
        their probability, so that the sum stays 1.
      seed: of the samples.

    Raises:
      JaLlmError: no text, a size that a language's text can't fill, a special token twice.
    """
    leading = [piece for piece, _ in _leading(special_tokens)]
    if len(set(leading)) < len(leading) or "" in leading:
        raise JaLlmError(
            f"the special tokens {', '.join(map(repr, special_tokens))} must differ and not be empty; change those that don't."
        )
    scores: dict[str, float] = {}
    samples: list[str] = []
    for part in parts:
        lines = list(sample(((str(i), line) for i, line in enumerate(lines_of(part.texts))), limit_chars, seed))
        for piece, score in _pieces(part, lines, character_coverage).items():
            if piece not in leading:
                scores.setdefault(piece, score)
        samples.extend(sample(((str(i), line) for i, line in enumerate(lines)), estimate_chars, seed))
    stretches = count_stretches(samples, scores)
    scores, _, _ = reestimate(stretches, normalised(scores), {}, epochs)
    ranked = sorted(scores, key=lambda piece: (-scores[piece], piece))
    surplus = (len(leading) + len(ranked)) % align
    dropped = set([piece for piece in reversed(ranked) if len(piece) > 1][:surplus])
    model = _model(normalised({piece: scores[piece] for piece in ranked if piece not in dropped}), special_tokens)
    model.save(out_dir)
    return model


def _pieces(part: Part, lines: list[str], coverage: float) -> dict[str, float]:
    """Pieces of the language's own model with their scores, as they go into the joint one."""
    options = MARKED if part.segments else {}
    data = train_model(
        marked_lines(lines, part.segments),
        part.size,
        "unigram",
        character_coverage=coverage,
        max_sentencepiece_length=part.max_piece_length,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        add_dummy_prefix=True,
        pad_id=-1,
        **options,
    )
    found: dict[str, float] = {}
    for piece in parse_proto(data).pieces:
        if piece.type == NORMAL:
            name = piece.piece.lstrip(WORD_START) if part.japanese else piece.piece
            if is_japanese(name) if part.japanese else name and not JAPANESE.search(name):
                found[name] = max(piece.score, found.get(name, -math.inf))
    if not found:
        raise JaLlmError(f"the {part.name} documents hold no piece of that language; check the document set.")
    return found


def count_stretches(lines: Iterable[str], pieces: Iterable[str]) -> Counter[str]:
    """Stretches of the lines, as SentencePiece sees them, that no piece crosses, and how often each stands in them.

    Two neighbouring characters are held together only if some piece has them side by side.
    """
    joined = {piece[i : i + 2] for piece in pieces for i in range(len(piece) - 1)}
    counts: Counter[str] = Counter()
    for line in track(lines, "cut lines for EM", "line"):
        text = WORD_START + line.replace(" ", WORD_START)
        start = 0
        for i in range(1, len(text) + 1):
            if i == len(text) or i - start == _MAX_STRETCH or text[i - 1 : i + 1] not in joined:
                counts[text[start:i]] += 1
                start = i
    return counts


def _model(scores: dict[str, float], special_tokens: Sequence[str]) -> SentencePieceTokenizer:
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    for piece, kind in _leading(special_tokens):
        proto.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in scores.items():
        proto.pieces.add(piece=piece, score=score, type=NORMAL)
    spec, rules = proto.trainer_spec, proto.normalizer_spec
    spec.model_type, spec.vocab_size = UNIGRAM, len(proto.pieces)
    spec.byte_fallback, spec.split_digits, spec.allow_whitespace_only_pieces = True, True, True
    spec.split_by_whitespace = False
    spec.unk_id, spec.bos_id, spec.eos_id, spec.pad_id = 0, 1, 2, -1
    spec.user_defined_symbols.append("\n")
    rules.name, rules.add_dummy_prefix, rules.remove_extra_whitespaces, rules.escape_whitespaces = "identity", True, False, True
    return SentencePieceTokenizer(proto.SerializeToString(deterministic=True))


def _leading(special_tokens: Sequence[str]) -> Iterator[tuple[str, int]]:
    yield from (("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL))
    yield from ((token, CONTROL) for token in special_tokens)
    yield "\n", USER_DEFINED
    yield from ((f"<0x{byte:02X}>", BYTE) for byte in range(256))

"""What an import says at its end: that the numbers are the source's, and that the model reads text with them."""

import math
import tempfile
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError
from ja_llm.vocab import published
from ja_llm.vocab.base import Tokenizer

# Written for this check. A model of one language alone finds the other hard; one with a wrong map finds both hard.
TEXTS = {
    "English": "The ferry leaves at noon, and the last boat back to the island goes at half past six in the evening.",
    "Japanese": "船は正午に出て、島へ帰る最後の便は夕方の六時半に出ます。",
}


def try_texts(loaded: Any) -> dict[str, dict[str, float]]:
    """Bits per byte and tokens per character of two texts, BOS before them, at most as long as the model's positions.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.

    Returns:
      name of the text -> {"bits_per_byte", "tokens_per_character", "uniform": bits per byte if all ids were equally likely}.
    """
    from ja_llm.evaluation.scoring import Scorer

    tokenizer, length = loaded.tokenizer, min(loaded.config.max_length, 128)
    ids = {name: [tokenizer.bos_id, *tokenizer.encode(text)] for name, text in TEXTS.items()}
    scores = Scorer(loaded, len(ids), length).token_logprobs(list(ids.values()))
    found = {}
    for (name, text), score in zip(TEXTS.items(), scores, strict=True):
        size = len(text.encode()) * math.log(2)
        found[name] = {
            "bits_per_byte": -float(score.sum()) / size,
            "tokens_per_character": len(score) / len(text),
            "uniform": len(score) * math.log(tokenizer.vocab_size) / size,
        }
    return found


def try_tokenizer(tokenizer: Tokenizer) -> dict[str, str]:
    """{"tokenizer": what an export of it would be}, or {"no_tokenizer": why there can be none}."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return {"tokenizer": published.export(tokenizer, Path(folder))}
        except JaLlmError as error:
            return {"no_tokenizer": str(error)}


def report(tensors: int, check: dict[str, Any]) -> list[str]:
    """Lines for a terminal."""
    spare = check["rows"] - check["ids"]
    rows = f"{check['ids']} ids for {check['rows']} rows" + (f", {spare} rows without an id" if spare else "")
    lines = [
        "self-check",
        f"  all {tensors} tensors read back from the model directory, as the system's cache has it, with the source's numbers; {rows}",
    ]
    if "tokenizer" in check:
        lines.append(f"  an export would have {check['tokenizer']}")
    if "no_tokenizer" in check:
        lines.append(f"  WARNING: the model can't be exported with its tokenizer: {check['no_tokenizer']}")
    for name, found in check.get("texts", {}).items():
        lines.append(
            f"  a sentence of {name}: {found['bits_per_byte']:.3f} bits/byte ({found['uniform']:.3f} by chance), "
            f"{found['tokens_per_character']:.2f} tokens a character"
        )
    if texts := check.get("texts"):
        lost = [name for name, found in texts.items() if not found["bits_per_byte"] < found["uniform"]]
        if len(lost) == len(texts):
            lines.append(
                "  WARNING: the model reads no better than chance; it is untrained, or its weights or tokenizer are not what they seem"
            )
        elif lost:
            lines.append(f"  it reads {lost[0]} no better than chance")
    return lines

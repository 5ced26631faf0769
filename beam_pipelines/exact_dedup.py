"""One document a text, white space apart; the newest stays. The rule and the files are those of `dedup.py`."""

from beam_pipelines.chain import StageSpec
from beam_pipelines.dedup import run_by
from ja_llm.documents import Document
from ja_llm.text.normalise import squeeze

VERSION = 1


def dense(document: Document) -> str:
    """The text without white space."""
    return squeeze(document.text)


STAGE = StageSpec("exact_dedup", VERSION, lambda config: None, run_all=run_by(dense), packages=("xxhash",))

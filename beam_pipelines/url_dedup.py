"""One document a page, whatever the spelling of its address; the newest stays. The rule and the files are those of `dedup.py`."""

from beam_pipelines.chain import StageSpec
from beam_pipelines.dedup import run_by
from beam_pipelines.url import normalise_url
from ja_llm.documents import Document

VERSION = 1


def page(document: Document) -> str:
    """What documents of one page have in common; "" where the address has no host."""
    return normalise_url(document.url)


STAGE = StageSpec("url_dedup", VERSION, lambda config: None, run_all=run_by(page), packages=("xxhash",))

"""Limits of stages that are no rule of the filters: a page on the limit, and one a step beyond. Those of the rules: test_thresholds.py,
of NG and host shares: test_hosts.py, of coverage: test_decontaminate.py, of lines' lengths: test_dedup_stages.py, of sites: test_host_cap.py."""

import dataclasses

import pytest

from beam_pipelines import lines, split
from beam_pipelines.config import Corpus, LanguageId, LineDedup, Split
from beam_pipelines.http import BodyProblem, Response, decoded_body
from beam_pipelines.language import identify
from ja_llm.documents import Document, document_id


def unique(count: int, start: int = 0) -> str:
    """Kanji of which none is like another."""
    return "".join(chr(0x4E00 + start + i) for i in range(count))


WORDS = "the quick brown fox jumps over a lazy dog and runs away from it "  # 50 letters
ENGLISH = WORDS * 3 + WORDS[:51]  # 190 letters


@pytest.mark.parametrize(
    ("on", "beyond", "lang"),
    [
        (ENGLISH + "かなかなかなかなかな", ENGLISH + "かなかなかなかなか, a", "ja"),  # min_kana_share: 10 and 9 of 200
        (ENGLISH + unique(10), ENGLISH + unique(9) + ", a", "zh"),  # min_han_share
        (ENGLISH + "한국어한국어한국어한", ENGLISH + "한국어한국어한국어, a", "ko"),
        ("かなかなかなかなかな", "かなかなかなかなか", "ja"),  # min_letters: 10
    ],
)
def test_languages(on, beyond, lang):
    assert identify(on, LanguageId())[0] == lang
    assert identify(beyond, LanguageId())[0] == ("en" if "fox" in beyond else "und")


@pytest.mark.parametrize("headers", [{}, {"transfer-encoding": "chunked"}])
def test_the_largest_body(headers):
    for size, fits in ((1000, True), (1001, False)):
        body = b"a" * size
        sent = b"%x\r\n%s\r\n0\r\n\r\n" % (size, body) if headers else body
        if fits:
            assert decoded_body(Response(200, headers, sent), 1000) == body
        else:
            with pytest.raises(BodyProblem, match="too_large"):
                decoded_body(Response(200, headers, sent), 1000)


def document(name: str, text: str, date: str = "") -> Document:
    return Document(document_id("s", name, date, text), text, url=f"http://{name}.example/", date=date)


def test_what_a_held_out_document_shares_with_training(run_stages):
    """50 of 100 n-grams are no more than half, 51 are: held-out texts of 112 characters, 62 and 63 of them in a training document."""
    config = Corpus(languages=("ja",), split=Split(heldout_share=0.5, split_by="document"))
    texts = {shared: unique(shared) + unique(112 - shared, 1000 * (shared - 60)) for shared in (62, 63)}
    for shared, stays in ((62, True), (63, False)):
        names = [f"n{i}" for i in range(40)]
        held = next(d for n in names if split.side(d := _ja(n, texts[shared]), config.split) == split.HELDOUT)
        trained = next(d for n in names if split.side(d := _ja(n, "花" + unique(shared)), config.split) == split.TRAIN)
        stages = run_stages([held, trained], [split.STAGE], config)
        assert (held in stages.left) == stays and trained in stages.left
        assert [reason for _, reason, *_ in stages.results["split"][0]["drops"]] == [] if stays else [split.CONTAINED]


def _ja(name: str, text: str) -> Document:
    return dataclasses.replace(document(name, text), lang="ja")


def test_what_is_left_of_a_document_without_its_shared_lines(run_stages):
    shared, config = unique(40, 3000), Corpus(lines=LineDedup(keep="newest", min_remaining=20))
    newest = document("newest", shared, "2025-01-01T00:00:00Z")
    on, beyond = (document(f"d{n}", f"{shared}\n{unique(n, 100 * n)}", "2020-01-01T00:00:00Z") for n in (20, 19))
    left = run_stages([newest, on, beyond], [lines.STAGE], config).left
    assert [d.text for d in left] == [shared, unique(20, 2000)]

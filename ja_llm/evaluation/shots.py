"""Which worked examples stand in front of which question: the published protocols' draws, and a plain one.

A rule is (asked, pool, count) -> pairs (record, its shots), in the order in which the records are asked. The pool holds enough
records, one more than `count` where it is the asked records themselves.
"""

import random
from collections.abc import Callable, Iterator

from ja_llm.evaluation.raw_files import Record

ShotRule = Callable[[list[Record], list[Record], int], Iterator[tuple[Record, list[Record]]]]


def no_shots(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """Each question alone."""
    for record in asked:
        yield record, []


def first(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """The pool's first records, the same for all questions."""
    shots = pool[:count]
    for record in asked:
        yield record, shots


def first_of_subject(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """The first records of the question's own subject (MMLU's dev files)."""
    by_subject: dict[str, list[Record]] = {}
    for record in pool:
        by_subject.setdefault(record["subject"], []).append(record)
    for record in asked:
        yield record, by_subject.get(record["subject"], [])[:count]


def llm_jp(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """llm-jp-eval 1.3: the pool is shuffled with seed 42 and its first 90 % kept; the first of them, the same for all questions."""
    shuffled = list(pool)
    random.Random(42).shuffle(shuffled)
    return first(asked, shuffled[: int(len(shuffled) * 0.9)], count)


def plain(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """A seeded draw from the pool, the same for all questions; a question that is its own shot gets the next one instead."""
    wanted = count + 1 if asked is pool else count
    drawn = random.Random(0).sample(pool, wanted)
    for record in asked:
        yield record, [shot for shot in drawn if shot is not record][:count]


def harness_0_3(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """lm-evaluation-harness 0.3 (Stability's fork): one generator of seed 42 shuffles the questions and then draws for each.

    So a question's shots depend on the order. Where the pool is the test itself, one more is drawn and the question is left out.
    """
    generator = random.Random(42)
    order = list(asked)
    generator.shuffle(order)
    return _per_question(order, pool, count, generator, asked is pool)


def harness_0_4(asked: list[Record], pool: list[Record], count: int) -> Iterator[tuple[Record, list[Record]]]:
    """lm-evaluation-harness 0.4.2: each task has a generator of seed 1234 that draws for each question in turn."""
    return _per_question(asked, pool, count, random.Random(1234), asked is pool)


def _per_question(
    order: list[Record], pool: list[Record], count: int, generator: random.Random, same: bool
) -> Iterator[tuple[Record, list[Record]]]:
    wanted = count + 1 if same else count
    for record in order:
        yield record, [shot for shot in generator.sample(pool, wanted) if shot is not record][:count]

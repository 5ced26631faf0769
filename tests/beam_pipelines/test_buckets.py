"""Buckets and the two rules against their definitions by brute force, on any documents, in any order, in any ranges of hashes."""

import collections
import contextlib
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beam_pipelines import buckets, clusters
from beam_pipelines.buckets import EARLIER, INDEX, LINK, Tables, TaskFiles, find_links, tasks, write_entries
from beam_pipelines.workspace import Stage, Unit
from ja_llm.documents import Document

BUCKETS = 3
DATES = ["2023-01-01", "2024-05-05T10:00:00Z", "2024-05-05", ""]


def document(ids):
    """(date, id, unit, hash of each bucket)."""
    hashes = st.tuples(*[st.integers(0, 9).map(lambda n: n << 60) for _ in range(BUCKETS)])
    return st.tuples(st.sampled_from(DATES), st.integers(0, ids), st.sampled_from("abc"), hashes)


documents = st.lists(document(5), max_size=30)  # few ids: equal ones must work
distinct = st.lists(document(10**6), max_size=30, unique_by=lambda d: d[1])


class Case:
    """Documents as files of units, and the same as plain lists in rank order."""

    def __init__(self, drawn):
        self.units = collections.defaultdict(list)
        for date, number, unit, hashes in drawn:
            self.units[unit].append((date, f"{number:032x}", hashes))
        self.flat = [(unit, number, *d) for unit in sorted(self.units) for number, d in enumerate(self.units[unit])]
        # The definition, in the words of the documentation: newer date first, then smaller id, then unit and number.
        self.order = sorted(range(len(self.flat)), key=lambda i: (self.flat[i][3], self.flat[i][0], self.flat[i][1]))
        self.order.sort(key=lambda i: self.flat[i][2].ljust(20, "\0"), reverse=True)

    def verdict(self, rule, per_task=1000, earlier_hashes=()):
        with tempfile.TemporaryDirectory() as folder:
            signed = Stage("minhash", "k", Path(folder))
            for unit, rows in self.units.items():
                ranks = [buckets.rank_row(i, Document(id, "", date=date)) for i, (date, id, _) in enumerate(rows)]
                hashes = np.array([h for *_, h in rows], np.uint64).reshape(len(rows), BUCKETS)
                write_entries(signed, Unit(unit, unit, ""), ranks, buckets.entries_of(hashes))
            tables = Tables.open(signed, reversed(list(self.units)))
            links, earlier, self.index = [], np.full(tables.documents, -1), collections.defaultdict(list)
            against = np.array([(h, 0, 7) for h in sorted(earlier_hashes)], INDEX)
            for task in tasks(BUCKETS, tables.documents, per_task=per_task):
                files = TaskFiles(io.BytesIO(), io.BytesIO(), io.BytesIO())
                find_links(tables, task, [against], files)
                links.append((task.bucket, np.frombuffer(files.links.getvalue(), LINK)))
                earlier[np.frombuffer(files.earlier.getvalue(), EARLIER)["document"]] = 7
                self.index[task.bucket] += np.frombuffer(files.index.getvalue(), INDEX)["hash"].tolist()
            ranks = tables.all_ranks()
            return clusters.decide(rule, tables.documents, links, earlier, lambda chosen: buckets.by_rank(ranks, chosen))

    def dropped_by_drop_rule(self, earlier=()):
        """Dropped: any bucket seen in an earlier-ranked document, dropped ones included."""
        seen, dropped = {(b, h) for b in range(BUCKETS) for h in earlier}, set()
        for i in self.order:
            mine = set(enumerate(self.flat[i][4]))
            if seen & mine:
                dropped.add(i)
            seen |= mine
        return dropped

    def components(self):
        """Connected components by flooding."""
        left, found = set(range(len(self.flat))), []
        while left:
            component, edge = set(), {left.pop()}
            while edge:
                component |= edge
                mine = {b for i in edge for b in enumerate(self.flat[i][4])}
                edge = {i for i in left if mine & set(enumerate(self.flat[i][4]))}
                left -= edge
            found.append(component)
        return found


@given(documents)
@settings(deadline=None, max_examples=60)
def test_drop_rule_is_its_definition(drawn):
    case = Case(drawn)
    verdict = case.verdict("drop_rule")
    assert set(np.flatnonzero(verdict.dropped)) == case.dropped_by_drop_rule()
    assert verdict.size.sum() == len(case.flat) and ((verdict.size > 0) == ~verdict.dropped).all()


@given(documents)
@settings(deadline=None, max_examples=60)
def test_union_find_keeps_the_best_of_each_component(drawn):
    case = Case(drawn)
    verdict = case.verdict("union_find")
    components = case.components()
    best = {min(c, key=case.order.index): c for c in components}
    assert set(np.flatnonzero(~verdict.dropped)) == set(best)
    assert {i: verdict.size[i] for i in best} == {i: len(c) for i, c in best.items()}
    assert all(verdict.better[i] == b for b, c in best.items() for i in c)


@given(documents, st.lists(st.integers(0, 9).map(lambda n: n << 60), max_size=2, unique=True))
@settings(deadline=None, max_examples=60)
def test_drop_rule_drops_a_subset_of_what_clusters_drop(drawn, earlier):
    case = Case(drawn)
    few, many = (case.verdict(rule, earlier_hashes=earlier).dropped for rule in clusters.RULES)
    assert not (few & ~many).any()
    assert set(np.flatnonzero(few)) == case.dropped_by_drop_rule(earlier)
    touched = [c for c in case.components() if any(set(case.flat[i][4]) & set(earlier) for i in c)]
    assert all(many[i] for c in touched for i in c), "whatever hangs together with a document of an earlier run goes"


@given(documents, st.integers(1, 12), st.sampled_from(clusters.RULES))
@settings(deadline=None, max_examples=60)
def test_neither_ranges_nor_blocks_matter(drawn, per_task, rule):
    case = Case(drawn)
    whole = case.verdict(rule)
    with small_blocks(per_task):
        parts = case.verdict(rule, per_task)
    for name in ("better", "bucket", "earlier", "size"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(parts, name), name)
    for bucket, hashes in case.index.items():
        assert hashes == sorted({d[4][bucket] for d in case.flat}), "the index is every hash once, in order"


@given(distinct, st.randoms(use_true_random=False), st.sampled_from(clusters.RULES))
@settings(deadline=None, max_examples=60)
def test_neither_order_nor_place_of_documents_matters(drawn, rng, rule):
    """Shuffled, and dealt to other units: the same ones stay, standing for as many."""
    turned = [(date, id, rng.choice("abc"), hashes) for date, id, _, hashes in drawn]
    rng.shuffle(turned)
    assert stays(Case(drawn), rule) == stays(Case(turned), rule)


def stays(case, rule):
    verdict = case.verdict(rule)
    return {case.flat[i][3]: (int(verdict.size[i]), case.flat[verdict.better[i]][3]) for i in np.flatnonzero(~verdict.dropped)}


@contextlib.contextmanager
def small_blocks(size):
    before = buckets._BLOCK
    buckets._BLOCK = size
    try:
        yield
    finally:
        buckets._BLOCK = before


def test_a_hot_bucket_takes_no_more_memory_than_a_block(tmp_path, monkeypatch):
    """All documents in one bucket: the table of the best has one row, and no block is larger than the limit."""
    monkeypatch.setattr(buckets, "_BLOCK", 64)
    signed = Stage("minhash", "k", tmp_path)
    n = 5000
    ranks = [(1, 0, n - i, i) for i in range(n)]
    write_entries(signed, Unit("u", "u", ""), ranks, buckets.entries_of(np.zeros((n, 1), np.uint64)))
    sizes = []
    real = buckets.best_of
    monkeypatch.setattr(buckets, "best_of", lambda members: sizes.append(len(members)) or real(members))
    files = TaskFiles(io.BytesIO(), io.BytesIO(), io.BytesIO())
    assert find_links(Tables.open(signed, ["u"]), tasks(1, n)[0], [], files) == n
    links = np.frombuffer(files.links.getvalue(), LINK)
    assert max(sizes) <= 130 and len(links) == n - 1 and set(links["better"].tolist()) == {n - 1}


def test_newest_is_first_then_the_smallest_id():
    dates = ["2024-05-05T10:00:00.5Z", "2024-05-05T10:00:00Z", "2024-05-05", "2023-12-31T23:59:59Z", "2023", ""]
    ages = [buckets.age(date) for date in dates]
    assert ages == sorted(ages) and len(set(ages)) == len(dates)
    assert buckets.document_id(*buckets.rank_row(0, Document("0123456789abcdef" * 2, ""))[1:3]) == "0123456789abcdef" * 2


def test_long_chains_end_in_one_component():
    """A path of 20,000 documents, each linked to the one before: one component, found in few passes."""
    n = 20_000
    rng = np.random.default_rng(0)
    names = rng.permutation(n)
    links = np.zeros(n - 1, LINK)
    links["document"], links["better"] = names[1:], names[:-1]
    rng.shuffle(links)
    verdict = clusters.decide("union_find", n, [(0, links)], np.full(n, -1), lambda chosen: chosen)
    assert verdict.size.tolist() == [n] + [0] * (n - 1)


@pytest.mark.parametrize("fair", [False, True])
def test_a_fair_order_favours_no_document(tmp_path, fair):
    """1,000 lines shared by two pages: by hash each page wins about half of them, by rank the newer one wins all."""
    signed = Stage("lines", "k", tmp_path)
    n = 1000
    hashes = np.sort(np.arange(n, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    entries = np.zeros((1, 2 * n), buckets.ENTRY)
    entries["hash"], entries["row"] = np.repeat(hashes, 2), np.tile([0, 1], n)
    write_entries(signed, Unit("u", "u", ""), [(5, 1, 1, 0), (3, 2, 2, 1)], entries)
    files = TaskFiles(io.BytesIO(), io.BytesIO(), io.BytesIO())
    find_links(Tables.open(signed, ["u"]), tasks(1, 2 * n, fair=fair)[0], [], files)
    wins = int((np.frombuffer(files.links.getvalue(), LINK)["better"] == 1).sum())
    assert wins == n if not fair else abs(wins - n / 2) < 5 * np.sqrt(n) / 2

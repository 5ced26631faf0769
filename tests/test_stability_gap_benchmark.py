"""The toy of benchmarks/stability_gap.py: each way of going on reads what it says, and the pairs share what they say."""

import numpy as np

from benchmarks.stability_gap import LETTERS, SHARED, SPACE, Toy, judged, rows_of, ways, world

TOY = Toy(seeds=3, base_steps=20, steps=40, batch=10, length=24, heldout=4)


def test_each_way_reads_the_same_number_of_rows_of_what_it_says():
    here = world(0, TOY)
    rows = {name: rows_of(here, way, TOY, 0).reshape(-1, TOY.length + 1) for name, way in ways(TOY).items()}
    known = {row.tobytes(): mistakes for row, mistakes in zip(here.japanese, here.mistakes, strict=True)}
    english = {row.tobytes() for row in here.english}
    read = {name: [row.tobytes() for row in found if row.tobytes() in known] for name, found in rows.items()}
    assert {len(found) for found in rows.values()} == {400}
    assert all(len(read[name]) + sum(row.tobytes() in english for row in found) == 400 for name, found in rows.items())
    lengths = {name: len(found) for name, found in read.items()}
    assert [lengths[name] for name in ("plain", "replay", "near_original")] == [360, 300, 200]
    assert set(read["plain"]) == set(known) and len(set(read["subset"])) == 90  # once; a quarter
    assert max(read["subset"].count(row) for row in set(read["subset"])) == 4 and read["subset"][:90] == read["plain"][:90]
    mistakes = [known[row] for row in read["best_first"]]
    assert max(mistakes[:90]) == 0 < min(mistakes[90:]) and sorted(read["best_first"]) == sorted(read["plain"])
    for name in ("jump", "not_rewarmed"):
        assert (rows[name] == rows["plain"]).all()
    assert (rows_of(here, ways(TOY)["plain"], TOY, 1) != rows["plain"].reshape(40, 10, -1)).any()


def test_the_languages_share_half_an_alphabet_and_documents_are_whole():
    here = world(1, TOY)
    english, japanese = (set(np.unique(rows[:, 1:])) - {SPACE} for rows in (here.english, here.japanese))
    assert len(english & japanese) == SHARED and len(english) == len(japanese) == LETTERS
    assert (here.english[:, 0] == 0).all() and (here.english[:, 1:] > 0).all()


def test_the_judgement_is_of_pairs():
    curve = [[2.0, 3.0, 2.0], [4.0, 6.0, 4.0], [1.0, 1.5, 1.0]]
    half = [[2.0, 2.5, 2.0], [4.0, 5.0, 4.0], [1.0, 1.25, 1.0]]
    flat = [[1.0, 1.0, 1.0]] * 3
    curves = {name: {"english": english, "japanese": flat} for name, english in (("plain", curve), ("subset", half))}
    found = judged({"steps": [0, 10, 20], "curves": curves})
    assert found["plain"]["area"] == np.mean([10, 20, 5]) and found["plain"]["recovered"] == 1.0
    against = found["subset"]["against_plain"]["area"]
    assert against["mean"] == -np.mean([5, 10, 2.5]) and against["relative"] == -0.5 and against["pairs"] == 3

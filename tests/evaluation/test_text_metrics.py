"""Each measure equals its named oracle on generated pairs: sacrebleu, GNU diff, rapidfuzz and rouge-score where they are installed, brute force."""

import importlib
import itertools
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import metrics, segmenters, text_metrics

WORDS = [
    "東京",
    "タワー",
    "ﾀﾜｰ",
    "Tower",
    "ＴＯＷＥＲ",
    "１２３",
    "café",
    "naïve",
    "é",
    "の",
    "the",
    "a",
    "an",
    "。",
    "-",
    "_",
    "  ",
    "\n",
    "😀",
    "高い",
    "it's",
    "塔",
]


def pairs(count, seed=0):
    """Pairs of near texts: Japanese, English, full width, Latin-1, punctuation, and every way of being empty."""
    draw = np.random.default_rng(seed)
    found = [("", ""), ("", "塔"), ("é", ""), ("é", "ü"), ("...", "。"), ("a b", "b a"), ("塔", "塔")]
    while len(found) < count:
        a = [WORDS[n] for n in draw.integers(len(WORDS), size=draw.integers(0, 12))]
        b = [w if draw.random() < 0.7 else WORDS[draw.integers(len(WORDS))] for w in a if draw.random() < 0.9]
        space = " " if draw.random() < 0.4 else ""
        found.append((space.join(a), space.join(draw.permutation(b) if draw.random() < 0.3 else b)))
    return found


def test_longest_common_subsequence_equals_gnu_diffs(tmp_path):
    for number, (a, b) in enumerate(pairs(220)):
        files = [tmp_path / f"{number}.{side}" for side in "ab"]
        for file, text in zip(files, (a, b), strict=True):
            file.write_text("".join(f"{ord(c)}\n" for c in text))
        lines = subprocess.run(["diff", "--minimal", *files], capture_output=True, text=True).stdout.splitlines()
        removed = sum(line.startswith("<") for line in lines)
        assert text_metrics.longest_common_subsequence(a, b) == len(a) - removed, (a, b)


def slow_token_sort_ratio(a, b):
    """fuzzywuzzy's documented steps, character by character, with the textbook table for the LCS."""

    def prepared(text):
        kept = "".join(c for c in text if not 0x80 <= ord(c) <= 0xFF)
        spaced = "".join(c if c.isalnum() or c == "_" or re.match(r"\w", c) else " " for c in kept)
        return " ".join(sorted(spaced.lower().strip().split()))

    a, b = prepared(a), prepared(b)
    if a == b:
        return 100
    if not a or not b:
        return 0
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    for i, j in itertools.product(range(len(a)), range(len(b))):
        table[i + 1, j + 1] = table[i, j] + 1 if a[i] == b[j] else max(table[i, j + 1], table[i + 1, j])
    return round(100 * (1 - (len(a) + len(b) - 2 * table[-1, -1]) / (len(a) + len(b))))


def test_charf1_llmjp_equals_fuzzywuzzys_steps():
    for a, b in pairs(250, seed=1):
        assert text_metrics.charf1_llmjp(a, b) == slow_token_sort_ratio(a, b) / 100, (a, b)
    assert text_metrics.charf1_llmjp("東京タワー", "東京 タワー") == 0.55  # 2 * 3 / (5 + 6): タワー is sorted in front of 東京
    assert text_metrics.charf1_llmjp("タワー 東京", "東京 タワー") == 1.0
    assert text_metrics.charf1_llmjp("12345678", "1") == 0.22  # 2 / 9
    assert text_metrics.charf1_llmjp("café", "caf") == 1.0  # Latin-1 letters are dropped


def test_charf1_llmjp_equals_rapidfuzz():
    fuzz = pytest.importorskip("rapidfuzz.fuzz", reason="rapidfuzz is not installed")

    def prepared(text):
        return re.sub(r"\W", " ", "".join(c for c in text if not 0x80 <= ord(c) <= 0xFF)).lower().strip()

    for a, b in pairs(250, seed=1):
        a_, b_ = prepared(a), prepared(b)
        same = " ".join(sorted(a_.split())) == " ".join(sorted(b_.split()))
        expected = 100 if same else 0 if not a_ or not b_ else round(fuzz.token_sort_ratio(a_, b_))
        assert text_metrics.charf1_llmjp(a, b) == expected / 100, (a, b)


def slow_shared(a, b):
    """Elements of `a` that find a partner in `b`, each used once."""
    left = list(b)
    return sum(not left.remove(x) for x in a if x in left)


def test_character_f1_and_exact_match_by_brute_force():
    for a, b in pairs(250, seed=2):
        expected = 1.0 if not a and not b else 2 * slow_shared(a, b) / (len(a) + len(b))
        assert text_metrics.character_f1(a, b) == expected
        assert text_metrics.exact_match(a, b) == (list(a) == list(b))
    assert text_metrics.character_f1("京東", "東京") == 1.0 and text_metrics.charf1_llmjp("京東", "東京") == 0.5
    assert text_metrics.nfkc("Ａ１ｱ") == "A1ア"


def test_rouge_2_by_brute_force():
    cut = segmenters.segmenter("character")
    for a, b in pairs(250, seed=3):
        a, b = cut(a), cut(b)
        grams = [[units[n : n + 2] for n in range(len(units) - 1)] for units in (a, b)]
        shared = slow_shared(*grams)
        precision, recall = (shared / max(len(g), 1) for g in grams)
        expected = 2 * precision * recall / (precision + recall) if shared else 0.0
        assert text_metrics.rouge_n(a, b) == pytest.approx(expected, abs=1e-12)
    assert text_metrics.rouge_n(list("あいう"), list("あいえ")) == 0.5


def test_rouge_2_equals_rouge_score():
    scorer_module = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    tokens = pytest.importorskip("rouge_score.tokenizers")

    class Characters(tokens.Tokenizer):
        def tokenize(self, text):
            return segmenters.characters(text)

    scorer = scorer_module.RougeScorer(["rouge2"], tokenizer=Characters())
    for a, b in pairs(250, seed=3):
        ours = text_metrics.rouge_n(segmenters.characters(a), segmenters.characters(b))
        assert ours == pytest.approx(scorer.score(b, a)["rouge2"].fmeasure, abs=1e-12)


def test_rouge_2_over_mecabs_words_equals_rouge_score():
    """The Japanese recipe from the packages themselves: emoji away, neologdn, white space collapsed, fugashi's -Owakati."""
    if missing := segmenters.missing_packages("mecab"):
        pytest.skip(f"{missing} not installed")
    scorer_module = pytest.importorskip("rouge_score.rouge_scorer", reason="rouge-score is not installed")
    from rouge_score.tokenizers import Tokenizer

    emoji, neologdn, fugashi = (importlib.import_module(name) for name in ("emoji", "neologdn", "fugashi"))
    tagger = fugashi.Tagger("-Owakati")

    class Words(Tokenizer):
        def tokenize(self, text):
            kept = "".join(c for c in text if not emoji.is_emoji(c))
            return tagger.parse(re.sub(r"\s+", " ", neologdn.normalize(kept)).strip()).split()

    metric, scorer = metrics.rouge2("mecab").bound(None), scorer_module.RougeScorer(["rouge2"], tokenizer=Words())
    found = pairs(220, seed=9)
    ours = metric.statistic([{"reference": b} for _, b in found], [a for a, _ in found]).rows[:, 0]
    assert ours == pytest.approx([scorer.score(b, a)["rouge2"].fmeasure for a, b in found], abs=1e-12)
    assert len(set(ours.tolist())) > 20 and "fugashi" in metric.signature()


def test_bleu_over_nagisas_words_equals_sacrebleus():
    if missing := segmenters.missing_packages("nagisa"):
        pytest.skip(f"{missing} not installed")
    import nagisa
    from sacrebleu import corpus_bleu

    found = [(a.replace("\n", " "), b.replace("\n", " ")) for a, b in pairs(200, seed=10)]
    joined = [[" ".join(nagisa.tagging(text).words) for text in side] for side in zip(*found, strict=True)]
    metric = metrics.bleu(segmenter="nagisa")
    ours = metric.statistic([{"reference": b} for _, b in found], [a for a, _ in found]).value
    assert ours == pytest.approx(corpus_bleu(joined[0], [joined[1]]).score / 100, abs=1e-12) and ours > 0.1


def test_rouge_over_a_models_own_pieces_depends_on_its_tokenizer(byte_tokenizer):
    target = {"reference": "東京の塔"}
    by_byte = metrics.rouge2("model").bound(byte_tokenizer)
    by_character = metrics.rouge2("character").bound(byte_tokenizer)
    a, b = "東京の塔".encode(), "東亜の塔".encode()
    grams = [[text[n : n + 2] for n in range(len(text) - 1)] for text in (a, b)]
    expected = 2 * slow_shared(*grams) / sum(map(len, grams))
    assert by_byte([target], ["東亜の塔"])["rouge2"] == pytest.approx(expected)
    assert by_character([target], ["東亜の塔"])["rouge2"] == pytest.approx(1 / 3)
    assert (by_byte.signature(), by_character.signature()) == ("rouge2|units:model-bytes", "rouge2|units:character")


def test_missing_segmenters_are_a_sentence(monkeypatch):
    monkeypatch.setattr(segmenters, "_importable", lambda package: False)
    for name in ("mecab", "nagisa"):
        with pytest.raises(JaLlmError, match=r"^\S+: this segmenter needs the package \w+, which is not installed; pip install"):
            segmenters.segmenter(name)
    with pytest.raises(JaLlmError, match="ja-mecab.*eval-ja"):
        monkeypatch.setattr("builtins.__import__", _no_mecab(__import__))
        metrics.bleu("ja-mecab").item({"reference": "塔"}, "塔")
    sys.modules.pop("sacrebleu.tokenizers.tokenizer_ja_mecab", None)  # imported without MeCab, it would stay so for other tests
    with pytest.raises(UsageError, match="there is no such segmenter"):
        segmenters.segmenter("spaces")
    with pytest.raises(UsageError, match="no tokenizer"):
        segmenters.segmenter("model")


def _no_mecab(plain):
    def load(name, *rest, **named):
        if name.split(".")[0] in ("MeCab", "ipadic"):
            raise ImportError(name)
        return plain(name, *rest, **named)

    return load


@pytest.mark.parametrize(
    "name, text, words", [("mecab", "東京　タワー😀です", ["東京", "タワー", "です"]), ("nagisa", "東京タワーです", None)]
)
def test_word_segmenters(name, text, words):
    if segmenters.missing_packages(name):
        pytest.skip(f"{segmenters.missing_packages(name)} not installed")
    found = segmenters.segmenter(name)(text)
    assert (found == words) if words else "".join(found) == text


@pytest.mark.parametrize("tokenize", ["13a", "char", "ja-mecab"])
def test_bleu_equals_sacrebleus(tokenize):
    from sacrebleu.metrics.bleu import BLEU

    if missing := segmenters.missing_packages(tokenize) if tokenize == "ja-mecab" else []:
        pytest.skip(f"{missing} not installed")

    ours, theirs = metrics.bleu(tokenize), BLEU(tokenize=tokenize)
    found = pairs(240, seed=4)
    for start in range(0, len(found), 12):  # corpora of 12 texts, and each text as a corpus
        for block in (found[start : start + 12], *([pair] for pair in found[start : start + 12])):
            predictions, references = zip(*block, strict=True)
            value = ours.statistic([{"reference": r} for r in references], predictions).value
            assert value == pytest.approx(theirs.corpus_score(list(predictions), [list(references)]).score / 100, abs=1e-12)
    assert ours.signature() == str(theirs.get_signature()) and f"tok:{tokenize}" in ours.signature()


def test_bleu_over_segmented_text(monkeypatch):
    from sacrebleu.metrics.bleu import BLEU

    monkeypatch.setattr(segmenters, "_nagisa", lambda text: re.findall("..?", text))
    monkeypatch.setattr(segmenters, "_importable", lambda package: True)
    monkeypatch.setattr(segmenters, "version", lambda name: f"{name}-1")
    found = pairs(40, seed=5)
    joined = [[" ".join(re.findall("..?", text)) for text in side] for side in zip(*found, strict=True)]
    metric = metrics.bleu(segmenter="nagisa")
    ours = metric.statistic([{"reference": r} for _, r in found], [p for p, _ in found]).value
    assert ours == pytest.approx(BLEU().corpus_score(joined[0], [joined[1]]).score / 100)
    assert metric.name == "bleu_nagisa" and metric.signature().startswith("segmented:nagisa-1|nrefs:1")


def test_pass_at_k_by_brute_force_and_scipy():
    hypergeom = pytest.importorskip("scipy.stats").hypergeom
    cases = [(n, c, k) for n in range(1, 11) for c in range(n + 1) for k in range(1, n + 1)]
    assert len(cases) > 200
    for n, c, k in cases:
        if n < 8:
            draws = list(itertools.combinations([True] * c + [False] * (n - c), k))
            assert text_metrics.pass_at_k(n, c, k) == pytest.approx(np.mean([any(d) for d in draws]))
        assert text_metrics.pass_at_k(n, c, k) == pytest.approx(hypergeom(n, c, k).sf(0), abs=1e-12)
    for bad in ((3, 1, 4), (3, 4, 1), (3, 1, 0)):
        with pytest.raises(ValueError):
            text_metrics.pass_at_k(*bad)


# The rules of the official SQuAD 2.0 script, worked by hand: (prediction, golds, exact, F1).
SQUAD = [
    ("The Cat!", ["a cat"], 1, 1),
    ("cat", ["dog", "the cat"], 1, 1),
    ("black cat", ["the cat"], 0, 2 / 3),
    ("", [], 1, 1),
    ("anything", [], 0, 0),
    ("", ["cat"], 0, 0),
    ("the", [], 1, 1),  # an article alone is no word
    ("cat", ["the"], 0, 0),  # nor is it a gold answer
    ("", ["the", "cat"], 0, 0),  # so it is not taken for "no answer" beside a real one
    ("cat cat", ["cat"], 0, 2 / 3),
    ("it's", ["its"], 1, 1),
    ("theatre", ["atre"], 0, 0),
    ("cat  sat\n", ["cat sat"], 1, 1),
]


@pytest.mark.parametrize("prediction, golds, exact, f1", SQUAD)
def test_squad_by_hand(prediction, golds, exact, f1):
    assert text_metrics.squad_exact(prediction, golds) == exact
    assert text_metrics.squad_f1(prediction, golds) == pytest.approx(f1)


def test_squad_on_generated_pairs():
    for pair in pairs(250, seed=6):
        a, b = (re.sub("[。😀]", " ", text) for text in pair)  # beside them an article is one, too: no matter of words
        words = [[w for w in re.sub(r"[!-/:-@\[-`{-~]", "", t.lower()).split() if w not in ("a", "an", "the")] for t in (a, b)]
        shared = slow_shared(*words)
        f1 = 2 * shared / (len(words[0]) + len(words[1])) if all(words) else float(words[0] == words[1])
        assert text_metrics.squad_exact(a, [b]) == (words[0] == words[1])
        assert text_metrics.squad_f1(a, [b]) == pytest.approx(f1)


def test_best_exact_is_the_best_of_all_thresholds():
    draw = np.random.default_rng(7)
    metric = metrics.BestThresholdMetric("best_exact", text_metrics.squad_exact)
    for _ in range(220):
        size = int(draw.integers(1, 12))
        golds = [["cat"] if draw.random() < 0.5 else [] for _ in range(size)]
        texts = [("cat", "dog", "")[draw.integers(3)] for _ in range(size)]
        doubts = draw.permutation(np.linspace(0.01, 0.9, size))
        best = 0.0
        for threshold in (-1.0, *doubts):
            answers = [text if doubt <= threshold else "" for text, doubt in zip(texts, doubts, strict=True)]
            best = max(best, np.mean([text_metrics.squad_exact(a, g) for a, g in zip(answers, golds, strict=True)]))
        value = metric.statistic([{"golds": g} for g in golds], texts, {"scores": np.log(doubts)}).value
        assert value == pytest.approx(best)


def test_choice_accuracy_by_brute_force():
    draw = np.random.default_rng(8)
    for _ in range(50):
        targets, scores, right = [], [], {"": [], "bytes": [], "characters": [], "tokens": []}
        for question in range(6):
            sizes = {per: draw.integers(1, 9, 4) for per in ("bytes", "characters", "tokens")}
            values, label = draw.choice([-4.0, -6.0, -9.0], 4), int(draw.integers(4))
            for choice in range(4):
                row = {per: int(size[choice]) for per, size in sizes.items()}
                targets.append({"question": str(question), "choice": choice, "label": label, **row})
            scores += values.tolist()
            for per in right:
                right[per].append(int(np.argmax(values / sizes[per] if per else values)) == label)
        for per, hits in right.items():
            metric = metrics.ChoiceMetric("accuracy", per)
            assert metric.statistic(targets, scores).rows[:, 0].tolist() == hits
            result = metric(targets, scores)
            assert result["accuracy"] == pytest.approx(np.mean(hits))
            assert result["accuracy_low"] <= result["accuracy"] <= result["accuracy_high"]
            assert not math.isnan(result["accuracy_standard_error"])

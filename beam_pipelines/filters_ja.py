"""Heuristic statistics of Japanese text, after Swallow Corpus v1 (NLP2024 paper and its code's definitions).

Swallow v2's page says that it re-tuned the heuristics: it names the mean sentence length and the hiragana share as kept, the
longest sentence and the shares of duplicate n-grams as dropped. Those dropped are not here.
"""

from beam_pipelines import rules
from ja_llm.text import scripts
from ja_llm.text.normalise import squeeze
from ja_llm.text.sentences import lines, sentences

VERSION = 1


def measure(text: str) -> dict[str, float]:
    """Statistics of a text, each as v1 defines it unless said otherwise.

    - letters: characters of Unicode category L, of any script (v1: letters in text)
    - japanese_share: Japanese letters (kana, kanji, full stops and commas) / letters and those marks
    - hiragana_share, katakana_share: / Japanese letters
    - mean_sentence_length: characters
    - ellipsis_share: sentences that end in an ellipsis or nakaguro ("続きを読む…": cut-off teasers)
    - duplicate_line_share, duplicate_sentence_share and ..._char_share: repeats of an earlier one
    - top_2gram_share to top_4gram_share: count of the most frequent character n-gram / all n-grams

    Example:
      >>> s = measure("吾輩は猫である。名前はまだ無い。")
      >>> s["letters"], round(s["hiragana_share"], 3), s["katakana_share"], s["mean_sentence_length"]
      (14, 0.5, 0.0, 8.0)
      >>> measure("ニュースを読む…\\nニュースを読む…")["ellipsis_share"]
      1.0
      >>> measure("")["mean_sentence_length"]
      0.0
    """
    counts = scripts.count(text)
    parts = sentences(text)
    line_share, line_chars = rules.duplicate_shares(lines(text))
    sentence_share, sentence_chars = rules.duplicate_shares(parts)
    dense = squeeze(text)
    return {
        "letters": counts.letters,
        "japanese_share": rules.share(counts.japanese, counts.letters + counts.kuten + counts.toten),
        "hiragana_share": rules.share(counts.hiragana, counts.japanese),
        "katakana_share": rules.share(counts.katakana, counts.japanese),
        "mean_sentence_length": rules.share(sum(len(s) for s in parts), len(parts)),
        "ellipsis_share": rules.share(sum(s.endswith(rules.ELLIPSIS) for s in parts), len(parts)),
        "duplicate_line_share": line_share,
        "duplicate_line_char_share": line_chars,
        "duplicate_sentence_share": sentence_share,
        "duplicate_sentence_char_share": sentence_chars,
        **{f"top_{n}gram_share": rules.top_ngram_share(dense, n) for n in (2, 3, 4)},
    }

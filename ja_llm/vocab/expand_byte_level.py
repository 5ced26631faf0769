"""Expansion of byte-level BPE: training goes on where the base's stopped, on the base's own pieces.

New merges are learnt over what the base makes of the text and rank below all of its merges. BPE takes the best-ranked merge
first, so the base's segmentation is finished before a new merge fires, and the new one only joins its pieces:

- A text in which no new merge can fire keeps its ids. New pieces can stand in Japanese only (`byte_level.only_japanese`).
- A piece's row starts from the pieces that it joins, which are the ones that the base gives for its bytes.
- Merges inside a stretch that no merge leaves do not depend on what stands around it, so a learnt piece is reached wherever
  its bytes stand between the same boundaries, and each prefix of the learnt list is a vocabulary by itself.

The base cuts Japanese anywhere in its bytes. Characters are completed first, from the left: a merge either completes a
character that its left part begins, or joins two parts that both begin and end at characters. So a new piece begins at a
character; it ends inside one only as a step (E6 97 on the way to 日 E6 97 A5, or where a piece of the base runs across two
characters). No piece begins inside a character.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

import gin

from ja_llm.errors import JaLlmError
from ja_llm.progress import Progress, track
from ja_llm.vocab.byte_level import TOUCHED, ByteLevelModel, completions, only_japanese, parts, to_bytes
from ja_llm.vocab.expansion import Expansion, check_counts
from ja_llm.vocab.hf_tokenizer import HFTokenizer
from ja_llm.vocab.japanese import Language, Runs, nothing_to_learn

Merge = tuple[bytes, bytes]
_Pair = tuple[int, int]
_CONTEXTS = ("", "\n", "、", "あ", "。\n", " ")


@gin.configurable
def expand_byte_level(
    base: HFTokenizer,
    texts: Iterable[str],
    new_pieces: int = 16000,
    align: int = 1,
    segments: str = "word",
    max_piece_length: int = 16,
    min_count: int = 2,
    space_in_front: bool = True,
) -> Expansion:
    """Add Japanese pieces to a byte-level BPE model.

    Args:
      base: the tokenizer of the model to expand.
      texts: Japanese training texts (never held-out ones); only counts of short runs are held in memory, so the result does
        not depend on the order of the texts.
      new_pieces: how many to add, at most; fewer where the texts have no more.
      align: the number of ids is a multiple of this, by taking fewer pieces (`pad_to` pads the table instead).
      segments: what pieces may not cross, see `ja_llm.vocab.japanese.Runs`; a character that the base joins to part of the
        next one is completed across it all the same.
      max_piece_length: longest piece in characters.
      min_count: leave out merges that fire fewer times than this on the texts.
      space_in_front: learn pieces with one space in front too, as the pre-tokenizer glues it to a word.

    Raises:
      JaLlmError: the base is no byte-level BPE that can be expanded; the texts hold no Japanese, or too little for `align`.
      UsageError: a number is below 1.
    """
    config = {
        "new_pieces": new_pieces,
        "align": align,
        "segments": segments,
        "max_piece_length": max_piece_length,
        "min_count": min_count,
        "space_in_front": space_in_front,
    }
    check_counts(config)
    model = ByteLevelModel(base)
    words = count_words(model, texts, segments, space_in_front)
    if not words:
        raise nothing_to_learn()
    banned: set[bytes] = set()
    allowed = _rule(Runs(segments), max_piece_length, space_in_front, banned)
    old_merges = [(to_bytes(a) or b"", to_bytes(b) or b"") for a, b in model.merges]
    while True:
        pieces, merges = learn(model.bytes_of, words, new_pieces, min_count, allowed, old_merges)
        pieces, merges = _aligned(base.vocab_size, pieces, merges, align)
        tokenizer = model.append(pieces, merges)
        dead = dead_byte_pieces(tokenizer, base.vocab_size)
        if not dead:
            break
        banned |= {to_bytes(piece) or b"" for piece in dead}
    sources = [model.spell(piece) for piece in pieces]
    left_out = sorted(piece.decode("utf-8", "replace") for piece in banned)
    return Expansion(tokenizer, sources, base.vocab_size, config, left_out)


def count_words(model: ByteLevelModel, texts: Iterable[str], segments: str, space_in_front: bool) -> Counter[tuple[int, ...]]:
    """Stretches of Japanese as sequences of the base's ids, at least two each, and how often each stands in the texts.

    Words of the pre-tokenizer are cut at the ends of runs where the base's pieces end there too.
    """
    run, language, seen = Runs(segments), Language(), Counter[str]()
    for text in track(language.watch(texts), "find Japanese words", "text"):
        for line in text.split("\n"):
            if TOUCHED.search(line):
                seen.update(model.words(line))
    language.check()
    counts: Counter[tuple[int, ...]] = Counter()
    for word, count in track(seen.items(), "cut words", "word", len(seen)):
        data = to_bytes(word)
        text = data.decode("utf-8", "replace") if data else ""
        if data is None or not TOUCHED.search(text) or "\ufffd" in text:
            continue
        for ids in _stretches(model, data, _cuts(text, run, space_in_front)):
            counts[ids] += count
    return counts


def _cuts(text: str, run: Runs, space_in_front: bool) -> set[int]:
    """Byte positions where runs begin and end."""
    cuts = set()
    for start, end in run.spans(text):
        start -= space_in_front and text[:start].endswith(" ")
        cuts |= {len(text[:start].encode()), len(text[:end].encode())}
    return cuts


def _stretches(model: ByteLevelModel, data: bytes, cuts: set[int]) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = []
    ids: list[int] = []
    position = 0
    for i in model.spell(data):
        if position in cuts:
            found.append(tuple(ids))
            ids = []
        ids.append(i)
        position += len(model.bytes_of[i] or b"")
    return [stretch for stretch in (*found, tuple(ids)) if len(stretch) > 1]


def _rule(run: Runs, longest: int, space_in_front: bool, banned: set[bytes]) -> Callable[[bytes, bytes], bool]:
    """Which two neighbours may be joined."""

    def allowed(a: bytes, b: bytes) -> bool:
        left, right = parts(a), parts(b)
        if left is None or right is None or left.head or bool(left.tail) != bool(right.head):
            return False
        whole = parts(a + b)
        if whole is None or a + b in banned or not only_japanese(a + b) or (a.startswith(b" ") and not space_in_front):
            return False
        if right.head:  # completes a character
            return True
        return whole.whole and len(whole.text) <= longest and run.one(whole.text.removeprefix(" "))

    return allowed


def learn(
    bytes_of: list[bytes | None],
    words: Counter[tuple[int, ...]],
    new_pieces: int,
    min_count: int,
    allowed: Callable[[bytes, bytes], bool],
    old_merges: Iterable[Merge] = (),
) -> tuple[list[bytes], list[Merge]]:
    """Byte-pair encoding (Sennrich et al. 2016, algorithm 1) from where a vocabulary stands.

    Args:
      bytes_of: bytes of each old id.
      words: sequences of old ids and their counts.
      new_pieces: how many pieces to make, at most.
      min_count: a merge that fires fewer times than this ends it.
      allowed: whether two neighbours, given as bytes, may be joined.
      old_merges: the vocabulary's own, in order of rank.

    Returns:
      New pieces, and merges in order of rank. Among equal counts the shorter piece first, then by bytes. A merge may also make
      a piece that is there already; such merges take no id, and what follows from that piece by earlier merges is done at once,
      as the encoder does it.
    """
    names: list[bytes | None] = list(bytes_of)
    known = {name: i for i, name in enumerate(names) if name is not None}
    ranks: dict[_Pair, tuple[int, int]] = {}  # pair -> (rank, what it makes)
    for a, b in old_merges:
        if a in known and b in known and a + b in known:
            ranks.setdefault((known[a], known[b]), (len(ranks), known[a + b]))
    corpus = _Corpus(words, lambda i, j: names[i] is not None and names[j] is not None and allowed(names[i], names[j]))  # type: ignore[arg-type]

    def entry(pair: _Pair) -> tuple:
        a, b = names[pair[0]] or b"", names[pair[1]] or b""
        return -corpus.counts[pair], len(a) + len(b), a + b, a, pair

    heap = [entry(pair) for pair in corpus.counts]
    heapq.heapify(heap)
    merges: list[Merge] = []
    with Progress("learn merges", new_pieces, "piece") as progress:
        while heap:
            count, _, joined, left, pair = heapq.heappop(heap)
            if -count != corpus.counts[pair]:  # other merges took some of them since
                if corpus.counts[pair] >= max(min_count, 1):
                    heapq.heappush(heap, entry(pair))
                continue
            is_new = joined not in known
            if -count < max(min_count, 1) or (is_new and len(names) - len(bytes_of) == new_pieces):
                break
            if is_new:
                known[joined] = len(names)
                names.append(joined)
                progress.update()
            ranks[pair] = (len(ranks), known[joined])
            merges.append((left, joined[len(left) :]))
            for changed in corpus.merge(pair, known[joined], None if is_new else ranks):
                heapq.heappush(heap, entry(changed))
    return [name for name in names[len(bytes_of) :] if name is not None], merges


class _Corpus:
    """Sequences of ids, and how often each two neighbours that may be joined stand in them."""

    def __init__(self, words: Counter[tuple[int, ...]], may_join: Callable[[int, int], bool]):
        self.counts: Counter[_Pair] = Counter()
        self._where: defaultdict[_Pair, set[int]] = defaultdict(set)
        self._may_join = may_join
        self._verdicts: dict[_Pair, bool] = {}
        self._sequences, self._weights = [list(word) for word in words], list(words.values())
        for n, sequence in enumerate(self._sequences):
            self._count(n, sequence, 1)

    def _count(self, n: int, part: list[int], sign: int) -> set[_Pair]:
        """Count the pairs in a part of sequence n, and give those that may be joined."""
        found = set()
        for pair in zip(part, part[1:], strict=False):
            if pair not in self._verdicts:
                self._verdicts[pair] = self._may_join(*pair)
            if self._verdicts[pair]:
                self.counts[pair] += sign * self._weights[n]
                if sign > 0:
                    self._where[pair].add(n)
                found.add(pair)
        return found

    def merge(self, pair: _Pair, into: int, ranks: dict[_Pair, tuple[int, int]] | None) -> set[_Pair]:
        """Join a pair wherever it stands, and with `ranks` all that follows from it; gives the pairs that came to stand there."""
        changed: set[_Pair] = set()
        for n in self._where.pop(pair, set()):
            old = self._sequences[n]
            new = _joined(old, pair, into)
            if ranks is not None:
                new = _settled(new, ranks)
            if len(new) < len(old):  # else other merges have taken it since
                self._sequences[n] = new
                start, end = _difference(old, new)
                self._count(n, old[start : len(old) - end], -1)
                changed |= self._count(n, new[start : len(new) - end], 1)
        return changed


def _difference(old: list[int], new: list[int]) -> tuple[int, int]:
    """How much two sequences share at the beginning and at the end, less one each: the pairs in there are the same."""
    start = end = 0
    while start < len(new) and old[start] == new[start]:
        start += 1
    while end < len(new) - start and old[-1 - end] == new[-1 - end]:
        end += 1
    return max(start - 1, 0), max(end - 1, 0)


def _joined(sequence: list[int], pair: tuple[int, int], into: int) -> list[int]:
    result: list[int] = []
    i = 0
    while i < len(sequence):
        if i + 1 < len(sequence) and (sequence[i], sequence[i + 1]) == pair:
            result.append(into)
            i += 2
        else:
            result.append(sequence[i])
            i += 1
    return result


def _settled(sequence: list[int], ranks: dict[tuple[int, int], tuple[int, int]]) -> list[int]:
    """Merge the best-ranked neighbours until none is left."""
    while found := [pair for pair in zip(sequence, sequence[1:], strict=False) if pair in ranks]:
        best = min(found, key=lambda pair: ranks[pair])
        sequence = _joined(sequence, best, ranks[best][1])
    return sequence


def _aligned(size: int, pieces: list[bytes], merges: list[Merge], align: int) -> tuple[list[bytes], list[Merge]]:
    """The longest beginning of both lists that makes the number of ids a multiple."""
    count = len(pieces) - (size + len(pieces)) % align
    if count <= 0:
        raise JaLlmError(
            f"{len(pieces)} pieces can be added, too few to bring {size} ids to a multiple of {align}; "
            "give more Japanese text or ask for more pieces."
        )
    if count < len(pieces):
        merges = merges[: next(n for n, (a, b) in enumerate(merges) if a + b == pieces[count])]
    return pieces[:count], merges


def dead_byte_pieces(tokenizer: HFTokenizer, first: int) -> list[str]:
    """Pieces from id `first` on that no text is spelt with, as tokenizer.json writes them.

    Merges must make each from its own bytes (a word that is looked up whole, as Llama 3 does, is no proof). A whole piece must
    then come out somewhere in running text: its surface at the beginning, or behind a newline, Japanese or a space. One that ends
    inside a character must come out with some end to it, unless a merge goes on from it: then it is a step.
    """
    model = ByteLevelModel(tokenizer)
    steps = {part for merge in model.merges for part in merge}
    dead = []
    for i in range(first, tokenizer.vocab_size):
        name, data = tokenizer.id_to_piece(i), model.bytes_of[i] or b""
        cut = parts(data)
        is_step = cut is not None and bool(cut.tail) and name in steps
        if model.spell(data) != [i] or (not is_step and witness(tokenizer, i) is None):
            dead.append(name)
    return dead


def witness(tokenizer: HFTokenizer, index: int) -> str | None:
    """The first text found in whose ids `index` stands, of those that `dead_byte_pieces` names; None where none was found."""
    cut = parts(to_bytes(tokenizer.id_to_piece(index)) or b"")
    if cut is None or cut.head:
        return None
    ends = completions(cut.tail) if cut.tail else ("",)
    for context in _CONTEXTS:
        for start in range(0, len(ends), 64):
            texts = [context + cut.text + end for end in ends[start : start + 64]]
            for text, ids in zip(texts, tokenizer.encode_batch(texts), strict=True):
                if index in ids:
                    return text
    return None

"""MinHash against exact Jaccard similarity and datasketch; the Doubri rule against its own definition by brute force."""

import itertools
import random

import numpy as np
import pytest
from datasketch import MinHash as PeerMinHash

from beam_pipelines.config import MinHash
from beam_pipelines.minhash import Signer, ngram_hashes, text_hash
from ja_llm.text.normalise import squeeze


def shingles(text, n=5):
    dense = squeeze(text)
    return {dense[i : i + n] for i in range(max(1, len(dense) - n + 1))}


def jaccard(a, b, n=5):
    a, b = shingles(a, n), shingles(b, n)
    return len(a & b) / len(a | b)


def edited(text, share, seed):
    """The text with a share of its sentences replaced."""
    rng = random.Random(seed)
    parts = text.split("。")
    for i in rng.sample(range(len(parts)), int(share * len(parts))):
        parts[i] = "".join(rng.choice("春夏秋冬花鳥風月山川草木") for _ in range(len(parts[i])))
    return "。".join(parts)


@pytest.fixture(scope="module")
def pairs(web):
    texts = [web.ja_text(i, 30) for i in range(12)]
    return [(text, edited(text, share, i)) for i, text in enumerate(texts) for share in (0.02, 0.05, 0.1, 0.2, 0.4)]


def test_signature_estimates_jaccard(pairs):
    """400 hashes: standard error sqrt(J (1 - J) / 400) <= .025; datasketch's estimate is no closer."""
    errors, peer_errors = [], []
    for seed, (a, b) in enumerate(pairs):
        signer = Signer(MinHash(bands=20, rows=20, seed=seed))
        true = jaccard(a, b)
        errors.append(float(np.mean(np.equal(*signer.signatures([a, b])))) - true)
        peers = []
        for text in (a, b):
            peer = PeerMinHash(num_perm=400, seed=seed)
            peer.update_batch([s.encode() for s in shingles(text)])
            peers.append(peer)
        peer_errors.append(peers[0].jaccard(peers[1]) - true)
    assert abs(np.mean(errors)) < 0.01 and np.std(errors) < 0.03
    assert np.std(errors) < 1.5 * np.std(peer_errors)


def test_bands_find_what_the_formula_says(pairs):
    """Share of pairs with a common bucket, against 1 - (1 - J^rows)^bands over many independent hash families."""
    found, expected = [], []
    for a, b in pairs[:30]:
        true = jaccard(a, b)
        for seed in range(8):
            signer = Signer(MinHash(bands=5, rows=4, seed=seed + 1))
            found.append(np.equal(*signer.band_hashes([a, b])).any())
            expected.append(1 - (1 - true**4) ** 5)
    assert abs(np.mean(found) - np.mean(expected)) < 0.05
    assert 0.2 < np.mean(expected) < 0.98, "the pairs must be a real trial"


def test_shingles_are_the_texts_own():
    a, b = "吾輩は猫である名前はまだ無い", "名前はまだ無い吾輩は猫である"
    for n in (1, 3, 5):
        hashes = [set(ngram_hashes(t, n).tolist()) for t in (a, b)]
        assert len(hashes[0]) == len(shingles(a, n)) and len(hashes[0] & hashes[1]) == len(shingles(a, n) & shingles(b, n))


def test_white_space_does_not_matter_and_short_texts_work():
    signer = Signer(MinHash())
    assert np.equal(*signer.band_hashes(["これは\n 短い　文です。長くない。", "これは短い文です。長くない。"])).all()
    assert text_hash("あ い\nう") == text_hash("あいう") != text_hash("あいえ")
    for a, b in itertools.combinations(["", "あ", "い", "あい", "あいう", "あいうえ"], 2):
        assert not np.equal(*signer.band_hashes([a, b])).any(), (a, b)


def test_hash_is_pinned():
    """Signatures are kept on disk and compared across runs: this value may change only with minhash.VERSION."""
    assert Signer(MinHash(bands=2, rows=3)).band_hashes(["日本語の文章"])[0].tolist() == PINNED


PINNED = [9256001757941054512, 10897750541241823869]

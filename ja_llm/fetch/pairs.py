"""Aligned Japanese-English pairs out of the ledger entries of the packages."""

import json
from pathlib import Path
from typing import Any

from ja_llm.fetch.render import JAPANESE_SHARE
from ja_llm.files import atomic_write, canonical_json


def write_pages(path: Path, ledgers: list[dict[str, Any]]) -> dict[str, int]:
    """Write pairs of pages with equal family and key: {"en_url", "family", "ja_url", "key"}, one JSON object a line.

    A Japanese page that holds next to no kana is still English inside: it is counted, and is no pair.

    Returns:
      Counts: pairs, untranslated.
    """
    english: dict[tuple[str, str], str] = {}
    for ledger in ledgers:
        for lang, key, url, _ in ledger["pages"]:
            if lang == "en":
                english.setdefault((ledger["family"], key), url)
    counts = {"pairs": 0, "untranslated": 0}
    with atomic_write(path) as file:
        for ledger in ledgers:
            for lang, key, url, share in ledger["pages"]:
                twin = english.get((ledger["family"], key))
                if lang != "ja" or twin is None:
                    continue
                if share < JAPANESE_SHARE:
                    counts["untranslated"] += 1
                    continue
                counts["pairs"] += 1
                row = {"ja_url": url, "en_url": twin, "family": ledger["family"], "key": key}
                file.write((canonical_json(row) + "\n").encode())
    return counts


def write_messages(path: Path, parts: list[Path]) -> dict[str, int]:
    """Join the packages' message pairs; of equal (en, ja) pairs the first package's is kept.

    Returns:
      Counts: pairs, repeated.
    """
    seen: set[tuple[str, str]] = set()
    repeated = 0
    with atomic_write(path) as file:
        for part in parts:
            with open(part, "rb") as lines:
                for line in lines:
                    row = json.loads(line)
                    if (row["en"], row["ja"]) in seen:
                        repeated += 1
                        continue
                    seen.add((row["en"], row["ja"]))
                    file.write(line)
    return {"pairs": len(seen), "repeated": repeated}

"""Small document sets in place of a recipe's sources: the quickstart's pages, dealt out to the sources by language.

They give a small run its shape (so many sources, in such shares), not its quality: a few kilobytes each, read hundreds of times. Japanese and
English sources get Japanese and English pages, code gets files of this package, parallel text the pages that are translations of
others, Chinese and Korean the few pages that there are. Any other language gets English pages.
"""

import dataclasses
import importlib.resources
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ja_llm import manifest
from ja_llm.data import registry
from ja_llm.documents import Document, document_id, to_example, write_record
from ja_llm.files import atomic_directory
from ja_llm.quickstart.pages import LICENCE, Page, load_pages

_HELD_OUT = 8  # one document in so many, and at least one
_PROBED = 20  # held-out documents at least: fewer tell an alarm nothing (`ja_llm.train.alarms`), so pages are cut
_BYTES_AND_SPECIAL = 259  # pieces that every vocabulary of ours has


def write_stand_ins(out_dir: Path, tasks: Iterable[str]) -> dict[str, Path]:
    """Write a document set for each that the tasks read; sets that are there stay.

    Args:
      out_dir: where a folder is made for each set.
      tasks: names of registered tasks.

    Returns:
      {set name: folder}.
    """
    parts: dict[str, dict[str, list[Document]]] = defaultdict(dict)
    for name, documents in _dealt(sorted(tasks)).items():
        template = registry.task(name)
        parts[template.documents][template.lang] = documents
    folders = {}
    for name, languages in sorted(parts.items()):
        folders[name] = out_dir / name
        if not (folders[name] / manifest.NAME).exists():
            _write(folders[name], languages)
    return folders


def texts(folders: Iterable[Path]) -> Iterable[str]:
    """The training texts of document sets, for a vocabulary."""
    from ja_llm.documents import read_documents

    for folder in folders:
        for shard in sorted(folder.glob("*/train-*.tfrecord")):
            for document in read_documents(shard):
                yield document.text


def coverage(lines: Iterable[str], pieces: int) -> float:
    """Character coverage for a small vocabulary: the commonest characters get half of its pieces, the rest is spelt in bytes.

    SentencePiece takes none below 0.98, so a very small vocabulary has more characters than that.
    """
    counts = Counter(character for line in lines for character in line)
    common = sum(count for _, count in counts.most_common(max(1, (pieces - _BYTES_AND_SPECIAL) // 2)))
    return min(max(common / max(counts.total(), 1), 0.98), 0.9995)


def _dealt(tasks: list[str]) -> dict[str, list[Document]]:
    """Each task's documents: those of its language, dealt out in turn."""
    users: dict[str, list[str]] = defaultdict(list)
    there = _by_language()
    for name in tasks:
        lang = registry.task(name).lang
        users[lang if lang in there else "en"].append(name)
    found = {}
    for lang, names in users.items():
        for place, name in enumerate(names):
            mine = there[lang][place :: len(names)]
            # Fewer pages than sources: they share them. One for training and one held out is the least.
            mine = mine if len(mine) > 1 else there[lang]
            found[name] = [_labelled(document, registry.task(name).lang, name) for document in mine]
    return found


def _by_language() -> dict[str, list[Document]]:
    pages = [page for page in load_pages() if page.kind == "article"]
    by_key = {page.key: page for page in pages}
    found: dict[str, list[Document]] = defaultdict(list)
    for page in pages:
        found[page.lang].append(_document(page, page.text))
        if page.translation_of:
            other = by_key[page.translation_of]
            found["en-ja"] += [_document(page, f"{a.text}\n{b.text}") for a, b in ((page, other), (other, page))]
    code = importlib.resources.files("ja_llm") / "text"
    for file in sorted(code.iterdir(), key=lambda file: file.name):
        if file.name.endswith(".py") and len(text := file.read_text(encoding="utf-8")) > 1000:
            url = f"file:ja_llm/text/{file.name}"
            found["code"].append(Document(document_id("ja_llm", url, "", text), text, "ja_llm", url, "code", "", "Apache-2.0"))
    return {lang: sorted(documents, key=lambda document: document.id) for lang, documents in found.items()}


def _document(page: Page, text: str) -> Document:
    return Document(
        document_id("quickstart", page.url, page.date, text), text, "quickstart", page.url, page.lang, page.date, LICENCE
    )


def _labelled(document: Document, lang: str, task: str) -> Document:
    """As a document of another language and source: an id of its own, since a mixture holds no document twice."""
    identity = document_id(task, document.url, document.date, document.text)
    return Document(identity, document.text, document.source, document.url, lang, document.date, document.licence)


def _cut(documents: list[Document]) -> list[Document]:
    """The same text in `_PROBED` documents or about so many, cut behind lines and sentences."""
    if len(documents) >= _PROBED:
        return documents
    found = []
    for document in documents:
        sentences = re.findall(r"[^\n.!?。！？]*(?:[\n.!?。！？]+\s*|$)", document.text)
        size, part = len(document.text) * len(documents) / _PROBED, ""
        for sentence in [*sentences, ""]:
            part += sentence
            if part.strip() and (len(part) >= size or not sentence):
                text = part.strip()
                identity = document_id(document.id, document.url, document.date, text)
                found.append(dataclasses.replace(document, id=identity, text=text))
                part = ""
    return found


def _write(folder: Path, languages: dict[str, list[Document]]) -> None:
    with atomic_directory(folder) as temporary:
        shards, licences = [], defaultdict[str, int](int)
        for lang, documents in sorted(languages.items()):
            held = max(1, len(documents) // _HELD_OUT)
            for split, chosen in (("heldout", _cut(documents[:held])), ("train", documents[held:])):
                path = temporary / lang / f"{split}-00000-of-00001.tfrecord"
                path.parent.mkdir(exist_ok=True)
                with open(path, "wb") as file:
                    for document in chosen:
                        write_record(file, to_example(document))
                        licences[document.licence] += 1
                characters = sum(len(document.text) for document in chosen)
                counts: dict[str, Any] = {"documents": len(chosen), "characters": characters, "lang": lang, "split": split}
                shards.append(manifest.file_entry(path, temporary, **counts))
        manifest.write(
            temporary,
            schema=manifest.DOCUMENTS,
            job="recipes shrink",
            config={"stand_ins": sorted(languages)},
            inputs=[],
            shards=shards,
            licences=dict(sorted(licences.items())),
        )

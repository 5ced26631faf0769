import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # for debian_repository, which several test files share

from debian_repository import Repository, Server, mo_bytes

JA_PAGE = (
    '<html><head><meta charset="utf-8"><title>基本</title></head><body><p>これは試験のページです。第{n}章。</p></body></html>'
)
EN_PAGE = "<html><head><title>Basics</title></head><body><p>This is a test page. Chapter {n}.</p></body></html>"
COPYRIGHT = b"""Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/

Files: *
Copyright: 2020 Somebody
License: GPL-2+

Files: debian/*
Copyright: 2020 Packager
License: Expat
"""


def _html(template: str, n: int) -> bytes:
    return template.replace("{n}", str(n)).encode()


@pytest.fixture
def repository() -> Repository:
    """A Japanese and an English manual (page `only-ja` has no twin, page `left` is untranslated) and a message catalogue."""
    repo = Repository()
    root = "usr/share/doc/debian/FAQ"
    repo.add(
        "debian-faq-ja",
        {f"{root}/ja/{name}.ja.html": _html(JA_PAGE, n) for n, name in enumerate(("basic", "kernel", "only-ja"))}
        | {f"{root}/ja/left.ja.html": _html(EN_PAGE, 9), f"{root}/ja/empty.ja.html": b" \n"}
        | {f"{root}/ja/alias.ja.html": "basic.ja.html", "usr/share/doc/debian-faq-ja/copyright": COPYRIGHT},
    )
    repo.add(
        "debian-faq",
        {f"{root}/{name}.en.html": _html(EN_PAGE, n) for n, name in enumerate(("basic", "kernel", "left"))}
        | {"usr/share/doc/debian-faq": "debian-faq-ja"},
        compression="gz",
    )
    for lang in ("de", "ko", "zh-cn"):
        repo.add(f"debian-faq-{lang}", {f"{root}/{lang}/basic.{lang}.html": b"<p>x</p>"}, compression="")
    catalogue = mo_bytes(
        {"": "Content-Type: text/plain; charset=UTF-8\n", "Open": "開く", "Save": "保存", "OK": "OK", "none": ""}
    )
    for name in ("debconf-i18n", "libc-l10n"):
        repo.add(name, {"usr/share/locale/ja/LC_MESSAGES/x.mo": catalogue, f"usr/share/doc/{name}/copyright": COPYRIGHT})
    repo.publish()
    return repo


@pytest.fixture
def server(repository):
    with Server(repository) as running:
        yield running

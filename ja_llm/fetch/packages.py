"""Which Debian packages hold freely licensed documentation, and where in them the pages of each language lie.

The table is data: to fetch another manual, add a row. Sizes in the comments are of Debian 12's packages.
"""

import dataclasses
import re

from ja_llm.errors import UsageError

HTML, MAN, MALLARD, TEXT = "html", "man", "mallard", "text"


@dataclasses.dataclass(frozen=True)
class Pages:
    """Where the pages of one language lie in a package.

    Attributes:
      lang: declared language, BCP 47 in lower case ("ja", "zh-cn"). Content may differ: some pages are untranslated.
      pattern: matched in full against the path inside the package; its groups, joined by "/", are what a page and its
        translation have in common (their key).
      kind: HTML (served as it is), MAN (roff, rendered), MALLARD (GNOME help XML, rendered) or TEXT (served as it is).
    """

    lang: str
    pattern: str
    kind: str = HTML

    def key(self, path: str) -> str | None:
        """The page's name across languages, or None if `path` is not one of these pages."""
        match = re.fullmatch(self.pattern, path)
        return "/".join(match.groups()) if match else None


@dataclasses.dataclass(frozen=True)
class Package:
    """One package: its family, its pages, and whether its compiled message catalogues are read.

    Attributes:
      name: Debian package name.
      family: the manual that it belongs to; pages of a family with equal keys are translations of each other.
      pages: where its pages lie.
      catalogues: read Japanese message catalogues (`ja/LC_MESSAGES/*.mo`).
    """

    name: str
    family: str
    pages: tuple[Pages, ...] = ()
    catalogues: bool = False


def _per_language(family: str, names: dict[str, str], pattern: str, folders: dict[str, str] | None = None) -> list[Package]:
    """One package a language; `{lang}` in the pattern is the language's folder or suffix, `{name}` the package."""
    rows = []
    for lang, name in names.items():
        folder = re.escape((folders or {}).get(lang, lang))
        rows.append(Package(name, family, (Pages(lang, pattern.replace("{lang}", folder).replace("{name}", re.escape(name))),)))
    return rows


_MAN = {
    "ja": r"usr/share/man/ja/(man\d\w*/[^/]+?)(?:\.gz)?",
    "en": r"usr/share/man/(man\d\w*/[^/]+?)(?:\.gz)?",
    "zh-cn": r"usr/share/man/zh_CN/(man\d\w*/[^/]+?)(?:\.gz)?",
}


def _man(name: str, *langs: str, catalogues: bool = False) -> Package:
    return Package(name, "manpages", tuple(Pages(lang, _MAN[lang], MAN) for lang in langs), catalogues)


def _localised(name: str, pattern: str, folders: dict[str, str], kind: str = HTML) -> Package:
    """One package with all languages side by side; only the named ones are read."""
    pages = tuple(Pages(lang, pattern.replace("{lang}", re.escape(folder)), kind) for lang, folder in folders.items())
    return Package(name, name, pages)


# Programs whose English manual pages have Japanese twins in manpages-ja or in the package itself; all but
# util-linux bring a Japanese message catalogue too (0.3 to 3 MB each).
_PROGRAMS = (
    "apt", "bash", "coreutils", "diffutils", "dpkg", "dpkg-dev", "findutils", "gawk", "gettext", "grep", "gzip", "less",
    "make", "mutt", "sed", "synaptic", "tar", "wget",
)  # fmt: skip

# Packages read for their Japanese message catalogues alone (0.1 to 14 MB each).
_MESSAGES = (
    "aptitude-common", "audacity-data", "binutils-common", "bluefish-data", "debconf-i18n", "dia-common", "evolution-common",
    "gcc-12-locales", "gimp-data", "gnome-control-center-data", "gnucash-common", "gnumeric-common", "gnupg-l10n", "iso-codes",
    "libc-l10n", "libglib2.0-data", "libgtk-3-common", "libreoffice-l10n-ja", "nautilus-data", "pidgin-data",
    "postgresql-client-15", "totem-common", "util-linux-locales", "vim-runtime", "vlc-l10n",
)  # fmt: skip

PACKAGES: tuple[Package, ...] = (
    # Small ones first, so that an interrupted fetch has something of every kind early.
    *_per_language(
        "debian-faq",
        {"ja": "debian-faq-ja", "en": "debian-faq", "de": "debian-faq-de", "ko": "debian-faq-ko", "zh-cn": "debian-faq-zh-cn"},
        r"usr/share/doc/debian/FAQ/(?:{lang}/)?([^/]+)\.{lang}\.html",
    ),
    *_per_language(
        "maint-guide",
        {"ja": "maint-guide-ja", "en": "maint-guide", "zh-cn": "maint-guide-zh-cn"},
        r"usr/share/doc/{name}/html/([^/]+)\.{lang}\.html",
    ),
    *_per_language(
        "aptitude",
        {"ja": "aptitude-doc-ja", "en": "aptitude-doc-en"},
        r"usr/share/doc/aptitude/html/{lang}/([^/]+)\.html",
    ),
    *_per_language(
        "debian-reference",
        {
            "ja": "debian-reference-ja",
            "en": "debian-reference-en",
            "de": "debian-reference-de",
            "zh-cn": "debian-reference-zh-cn",
        },
        r"usr/share/debian-reference/([^/]+)\.{lang}\.html",
    ),
    _man("manpages-ja", "ja"),  # 4 MB
    _man("manpages-ja-dev", "ja"),
    _man("manpages", "en"),
    _man("manpages-dev", "en"),
    _man("manpages-zh", "zh-cn"),
    *(_man(name, "ja", "en", catalogues=True) for name in _PROGRAMS),
    *_per_language(
        "lilypond",  # 10 MB
        {"ja": "lilypond-doc-html-ja", "de": "lilypond-doc-html-de", "zh-cn": "lilypond-doc-html-zh"},
        r"usr/share/doc/lilypond/html/Documentation/([^.]+)\.{lang}\.html",
        {"zh-cn": "zh"},
    ),
    Package("lilypond-doc-html", "lilypond", (Pages("en", r"usr/share/doc/lilypond/html/Documentation/([^.]+)(?:\.en)?\.html"),)),
    _localised(
        "gnome-user-docs",  # 8 MB
        r"usr/share/help/{lang}/((?:gnome-help|system-admin-guide)/[^/]+)\.page",
        {"ja": "ja", "en": "C", "de": "de", "ko": "ko", "zh-cn": "zh_CN"},
        MALLARD,
    ),
    *_per_language(
        "debian-edu",  # 24 MB
        {"ja": "debian-edu-doc-ja", "en": "debian-edu-doc-en"},
        r"usr/share/doc/{name}/([^/]+)\.html",
    ),
    _localised(
        "debian-handbook",  # 35 MB
        r"usr/share/doc/debian-handbook/html/{lang}/([^/]+)\.html",
        {"ja": "ja-JP", "en": "en-US", "de": "de-DE", "ko": "ko-KR", "zh-cn": "zh-CN"},
    ),
    *_per_language(
        "kicad",  # 58 MB
        {"ja": "kicad-doc-ja", "en": "kicad-doc-en", "zh-cn": "kicad-doc-zh"},
        r"usr/share/doc/kicad/help/{lang}/(.+)\.html",
        {"zh-cn": "zh"},
    ),
    *_per_language(
        "gimp-help",  # 148 MB
        {"ja": "gimp-help-ja", "en": "gimp-help-en", "ko": "gimp-help-ko"},
        r"usr/share/gimp/2\.0/help/{lang}/(.+)\.html",
    ),
    Package(
        "gnucash-docs",  # 146 MB, all languages
        "gnucash-docs",
        tuple(
            Pages(lang, rf"usr/share/doc/gnucash-docs/gnucash-(guide|help)-{lang}/([^/]+)\.html") for lang in ("ja", "en", "de")
        ),
    ),
    # Plain files in ISO-2022-JP, EUC-JP and Shift_JIS as found in the wild (78 MB for 2 MB of text, hence late).
    Package(
        "texlive-lang-japanese",
        "texlive-japanese",
        (
            Pages("ja", r"usr/share/doc/texlive-doc/(.+)\.html", HTML),
            Pages(
                "ja",
                r"usr/share/doc/texlive-doc/((?:.+/)?(?:README[^/]*|[^/]+\.(?:txt|md|tex)))(?<!\.pdf)(?<!\.gz)(?:\.gz)?",
                TEXT,
            ),
        ),
    ),
    *(Package(name, "messages", catalogues=True) for name in _MESSAGES),
)

FAMILIES: tuple[str, ...] = tuple(dict.fromkeys(package.family for package in PACKAGES))


def select(families: list[str] | tuple[str, ...] | None = None, limit: int | None = None) -> list[Package]:
    """The packages of the named families (all if None), the first `limit` of them, in the table's order.

    Raises:
      UsageError: a family is not known, or the limit is below 1.
    """
    for family in families or ():
        if family not in FAMILIES:
            raise UsageError(f"--families {family}: there is no such family; the known ones are {', '.join(FAMILIES)}.")
    if limit is not None and limit < 1:
        raise UsageError(f"--limit_packages {limit}: at least one package is needed.")
    return [package for package in PACKAGES if families is None or package.family in families][:limit]

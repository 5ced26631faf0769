"""What licence a package or a manual page is under, from its own words.

Machine-readable copyright files (Debian's DEP-5 / copyright-format 1.0) name their licences; elsewhere a recogniser
looks for the licences' own sentences. Names are SPDX identifiers where one exists.
"""

import re

_SPDX_EXACT = {
    "expat": "MIT",
    "mit": "MIT",
    "x11": "X11",
    "isc": "ISC",
    "public-domain": "public domain",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "bsd-4-clause-uc": "BSD-4-Clause-UC",
    "artistic": "Artistic-1.0-Perl",
    "artistic-2.0": "Artistic-2.0",
    "apache-2.0": "Apache-2.0",
    "zlib": "Zlib",
    "postgresql": "PostgreSQL",
}
_GNU = re.compile(r"(LGPL|AGPL|GPL|GFDL)(-NIV)?-?v?(\d+(?:\.\d+)?)?(\+?)", re.IGNORECASE)
_TEX_COMMENT = re.compile(r"^\s*%+", re.MULTILINE)


def spdx(name: str) -> str:
    """The SPDX identifier of a DEP-5 short name ("GPL-2+" -> "GPL-2.0-or-later"); other names come back as they are."""
    name = name.strip()
    if name.lower() in _SPDX_EXACT:
        return _SPDX_EXACT[name.lower()]
    match = _GNU.fullmatch(name)
    if match is None:
        return name
    family, invariants, version, later = match.groups()
    if version is None:
        return family.upper()
    if "." not in version:
        version += ".0"
    variant = "-no-invariants" if invariants else ""
    return f"{family.upper()}-{version}" + (f"{variant}-or-later" if later else f"{variant}-only")


def package_licence(copyright_text: str, package: str) -> str:
    """Licences of a package by its copyright file, e.g. "GPL-3.0-or-later AND GFDL-1.3-or-later".

    Those of the whole package come first; those of its Debian packaging alone are left out. The package may hold files
    under fewer of them: a page's own notice, where it has one, is nearer.

    Returns:
      Names joined by " AND ", or "see the copyright file of PACKAGE" if none is recognised.
    """
    names = _dep5(copyright_text) if copyright_text.lstrip("\ufeff\n ").lower().startswith(("format:", "format-spec")) else []
    names = names or recognise(copyright_text)
    return " AND ".join(names) if names else f"see the copyright file of {package}"


def _dep5(text: str) -> list[str]:
    """SPDX names of the `License:` fields of the Files paragraphs, `Files: *` first, without repeats."""
    whole: list[str] = []
    rest: list[str] = []
    for paragraph in re.split(r"\n\s*\n", text):
        files = re.search(r"^Files:[ \t]*((?:.*)(?:\n[ \t].*)*)", paragraph, re.MULTILINE | re.IGNORECASE)
        licence = re.search(r"^License:[ \t]*(.*)$", paragraph, re.MULTILINE | re.IGNORECASE)
        if licence is None or not licence[1].strip():
            continue
        patterns = files[1].split() if files else []
        if files and all(pattern.startswith("debian/") for pattern in patterns):
            continue
        if files:
            (whole if "*" in patterns else rest).extend(_expression(licence[1]))
    return list(dict.fromkeys(whole + rest))


def _expression(value: str) -> list[str]:
    """One License field: names joined by `and` or commas apart from each other, those joined by `or` together."""
    names = []
    for part in re.split(r"\s*,\s*(?:and\s+)?|\s+and\s+", value.strip(), flags=re.IGNORECASE):
        choice = [spdx(name) for name in re.split(r"\s+or\s+", part, flags=re.IGNORECASE)]
        names.append(f"({' OR '.join(choice)})" if len(choice) > 1 else choice[0])
    return names


_GNU_VERSIONS = {"GFDL": ("1.1", "1.2", "1.3"), "LGPL": ("2", "2.1", "3"), "AGPL": ("3",), "GPL": ("1", "2", "3")}
# Acronyms are matched in capitals only, sentences in any case.
_RULES: tuple[tuple[str, str], ...] = (
    (r"(?i:GNU Free Documentation Licen[sc]e)|\bG?FDL\b", "GFDL"),
    (r"(?i:GNU (?:Lesser|Library) (?:General )?Public Licen[sc]e)|\bLGPL", "LGPL"),
    (r"(?i:GNU Affero General Public Licen[sc]e)|\bAGPL", "AGPL"),
    (r"(?i:(?:GNU )?(?<!Lesser )(?<!Library )(?<!Affero )General Public Licen[sc]e)|\bGPL", "GPL"),
    (r"(?i:Permission is hereby granted, free of charge, to any person obtaining a copy)|\bMIT [Ll]icen[sc]e", "MIT"),
    (r"(?i:Redistribution and use in source and binary forms)|\bBSD (?:\d-clause )?[Ll]icen[sc]e", "BSD"),
    (r"(?i:Creative Commons)|\bCC[- ]BY\b", "CC"),
    (r"(?i:Apache Licen[sc]e,? (?:Version )?2)", "Apache-2.0"),
    (r"(?i:Artistic Licen[sc]e)", "Artistic"),
    (r"(?i:LaTeX Project Public Licen[sc]e)|\bLPPL\b", "LPPL"),
    (r"(?i:\bpublic domain\b)", "public domain"),
    (
        r"(?i:Permission is granted to make and distribute verbatim copies of this (?:manual|document|man(?:ual)? ?page))",
        "copies and changed versions permitted under the same notice",
    ),
)


def recognise(text: str) -> list[str]:
    """Licences whose own words stand in `text`, SPDX names with a version where the text gives one; [] if none.

    A version counts only beside the licence's name, so that an address or a year is not taken for one.
    """
    text = re.sub(r"\s+", " ", _TEX_COMMENT.sub("", text))
    found = []
    for pattern, name in _RULES:
        if match := re.search(pattern, text):
            found.append(_versioned(name, text[match.start() : match.end() + 160]))
    return list(dict.fromkeys(found))


def _versioned(name: str, near: str) -> str:
    """Add the version that the words after a licence's name give."""
    if name in _GNU_VERSIONS:
        version = re.search(r"(?:,? ?[Vv]ersion |[ -]v?)(\d\.?\d*)\b", near) or re.search(r"GPLv?(\d)", near)
        number = version[1].removesuffix(".0").rstrip(".") if version else ""
        if number not in _GNU_VERSIONS[name]:
            return name
        later = re.search(r"(?:any|or) later|or newer|\d\+|any higher", near)
        return spdx(f"{name}-{number}{'+' if later else ''}")
    if name == "CC":
        kind = re.search(r"\b(?:CC[- ])?(BY(?:-NC)?(?:-SA|-ND)?)[- ](\d\.\d)", near)
        if kind:
            return f"CC-{kind[1]}-{kind[2]}"
        share = re.search(r"Attribution[- ]Share ?Alike (\d\.\d)", near, re.IGNORECASE)
        return f"CC-BY-SA-{share[1]}" if share else "CC"
    if name == "Artistic":
        return "Artistic-2.0" if re.search(r"2\.0", near) else "Artistic-1.0-Perl"
    return name


_MAN_PAGES_TAGS = {
    "GPLV2+_DOC_FULL": "GPL-2.0-or-later",
    "GPLV2+_DOC_ONEPARA": "GPL-2.0-or-later",
    "GPLV2+_DOC_MISC": "GPL-2.0-or-later",
    "GPLV2+_SW_3_PARA": "GPL-2.0-or-later",
    "GPLV2+_SW_ONEPARA": "GPL-2.0-or-later",
    "GPLV2_ONELINE": "GPL-2.0-only",
    "GPLV2_MISC": "GPL-2.0-only",
    "VERBATIM": "Linux-man-pages-copyleft",
    "PUBLIC_DOMAIN": "public domain",
    "PERMISSIVE_MISC": "permissive",
    "MISC": "",
}


def roff_licence(page: str) -> str:
    """Licence that a manual page states in its own roff comments; "" if it states none that is known.

    Read in this order: an SPDX tag, the Linux man-pages project's `%%%LICENSE_START(...)` tag, the licence's words.
    """
    comments = "\n".join(line[3:].strip() for line in page.splitlines() if line.startswith(('.\\"', "'\\\"")))
    if tag := re.search(r"SPDX-License-Identifier: *(.+)", comments):
        return tag[1].strip()
    if tag := re.search(r"%%%LICENSE_START\(([^)]+)\)", comments):
        name = tag[1].strip().upper()
        if name.startswith("BSD"):
            return "BSD-4-Clause" if "4_CLAUSE" in name else "BSD-3-Clause"
        if known := _MAN_PAGES_TAGS.get(name):
            return known
    return " AND ".join(recognise(comments))

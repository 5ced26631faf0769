"""Licences from copyright files and manual pages."""

import pytest

from ja_llm.fetch.licences import package_licence, recognise, roff_licence, spdx


@pytest.mark.parametrize(
    ("short", "identifier"),
    [
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("GFDL-1.3+", "GFDL-1.3-or-later"),
        ("GFDL-NIV-1.3+", "GFDL-1.3-no-invariants-or-later"),
        ("Expat", "MIT"),
        ("CC-BY-SA-3.0", "CC-BY-SA-3.0"),
        ("GPL-3+ with Bison exception", "GPL-3+ with Bison exception"),
    ],
)
def test_short_names(short, identifier):
    assert spdx(short) == identifier


DEP5 = """Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Source: https://a.example/

Files: po/*
Copyright: 2001 A
License: LGPL-2.1+ or Expat, and GFDL-1.2

Files: *
Copyright: 2000 A
License: GPL-3+
 text of it

Files: debian/rules
       debian/*
Copyright: 2002 B
License: ISC

License: Apache-2.0
 A paragraph that only carries a text.
"""


def test_machine_readable_file_whole_package_first_packaging_left_out():
    assert package_licence(DEP5, "x") == "GPL-3.0-or-later AND (LGPL-2.1-or-later OR MIT) AND GFDL-1.2-only"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("under the terms of the GNU General Public License as published by the FSF; either version 2 of the\n"
         "License, or (at your option) any later version.", ["GPL-2.0-or-later"]),
        ("under the GNU General Public License, version 3.", ["GPL-3.0-only"]),
        ("the GNU Lesser General Public License version 2.1", ["LGPL-2.1-only"]),
        ("GNU Free Documentation License, Version 1.3 or any later version", ["GFDL-1.3-or-later"]),
        ("Permission is hereby granted, free of charge, to any person obtaining a copy", ["MIT"]),
        ("Redistribution and use in source and binary forms, with or without", ["BSD"]),
        ("Creative Commons Attribution-ShareAlike 4.0 International", ["CC-BY-SA-4.0"]),
        ("The Artistic License and the GNU General Public License", ["GPL", "Artistic-1.0-Perl"]),
        ("This file is in the public domain.", ["public domain"]),
        ("released on version 2.80 of evolution under the GNU General Public License", ["GPL"]),
        ("See the authors.", []),
    ],
)  # fmt: skip
def test_recogniser(text, names):
    assert recognise(text) == names


def test_unknown_package_licence_points_to_the_file():
    assert package_licence("All kinds of conditions.", "manpages-ja") == "see the copyright file of manpages-ja"


def test_manual_page_notices():
    assert roff_licence('.\\" SPDX-License-Identifier: Linux-man-pages-copyleft\n.TH A 1') == "Linux-man-pages-copyleft"
    assert roff_licence('.\\" %%%LICENSE_START(GPLv2+_DOC_FULL)\n.\\" This is free\n.TH A 1') == "GPL-2.0-or-later"
    assert roff_licence('.\\" in the\n.\\" public domain\n.TH A 1') == "public domain"
    assert roff_licence(".TH A 1\nThe GNU General Public License is mentioned in the text only.") == ""

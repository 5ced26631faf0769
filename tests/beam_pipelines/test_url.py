"""Addresses of one page have one spelling; addresses of different pages keep theirs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.url import normalise_url


@pytest.mark.parametrize(
    "urls",
    [
        ("http://example.com", "https://EXAMPLE.com:443/", "http://example.com:80/#top", "http://me:secret@example.com./"),
        ("http://e.example/~a/b", "http://e.example/%7Ea/./c/../b", "http://e.example/%7ea/b?"),  # RFC 3986 section 6.2.2
        ("http://e.example/あ?q=い", "http://e.example/%e3%81%82?q=%E3%81%84"),
        ("http://e.example/?a=1&b=2", "http://e.example/?b=2&utm_source=x&a=1", "http://e.example/?fbclid=y&a=1&b=2&"),
        ("http://e.example/p", "http://e.example/p;jsessionid=0A?PHPSESSID=1"),
        ("http://例え.テスト/", "http://xn--r8jz45g.xn--zckzah/"),
    ],
)
def test_spellings_of_one_page(urls):
    assert len({normalise_url(url) for url in urls}) == 1


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("http://e.example/a", "http://e.example/A"),
        ("http://e.example/a", "http://e.example/a/"),
        ("http://e.example/a", "http://www.e.example/a"),
        ("http://e.example/a", "http://e.example:8080/a"),
        ("http://e.example/a", "ftp://e.example/a"),
        ("http://e.example/a?b", "http://e.example/a?c"),
        ("http://e.example/a%2Fb", "http://e.example/a/b"),  # an encoded slash is no separator
        ("http://e.example/?side=1", "http://e.example/?side=2"),  # begins like a session's parameter
    ],
)
def test_other_pages(a, b):
    assert normalise_url(a) != normalise_url(b)


@pytest.mark.parametrize(
    "url", ["", "no address", "/only/a/path", "http://", "http://[::1", "http://e.example:port/", "mailto:a@e.example"]
)
def test_no_host(url):
    assert normalise_url(url) == ""


def test_secrets_do_not_stay():
    assert "pw" not in normalise_url("http://user:pw@e.example/")


@given(st.text(st.characters(codec="utf-8"), max_size=20), st.text(max_size=20))
def test_normal_form_is_stable(path, query):
    once = normalise_url(f"http://e.example/{path}?{query}")
    assert normalise_url(f"http://{once}") == once

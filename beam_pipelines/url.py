"""One spelling for the addresses of one page.

RFC 3986 section 6.2.2 (case, percent-encoding, dot segments) and 6.2.3 (default port, empty path); besides, for crawls:
http and https are one, the fragment and the user's name go, and query parameters that only say where a visitor came
from (or which visit it is) go; the others are sorted.
"""

import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

# Parameters of advertising and analytics (utm_*, Google, Facebook, Microsoft, Yahoo! JAPAN, Mailchimp) and of sessions.
_TRACKING = re.compile(
    r"(?:utm_\w+|gclid|gclsrc|dclid|gbraid|wbraid|fbclid|msclkid|yclid|yj_r|mc_cid|mc_eid|_ga|_gl|igshid|ref_src|"
    r"phpsessid|jsessionid|aspsessionid\w*|sessionid|session_id|sid)",
    re.IGNORECASE,
)
_PATH_SESSION = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/;?]*", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}
_SAFE = "-._~!$&'()*+,;=:@/"


def normalise_url(url: str) -> str:
    """The address in its normal form, without a scheme if it is http or https; "" if it has no host.

    Example:
      >>> normalise_url("HTTP://user:pw@WWW.Example.com:80/a/../%7eb?utm_source=x&b=2&a=%e3%81%82#top")
      'www.example.com/~b?a=%E3%81%82&b=2'
      >>> normalise_url("https://日本.example") == normalise_url("http://xn--wgv71a.example/")
      True
    """
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname or "", parts.port
    except ValueError:  # a port that is no number, or brackets that are not closed
        return ""
    if not host:
        return ""
    scheme = parts.scheme.lower()
    where = _ascii_host(host)
    if port is not None and port != _PORTS.get(scheme):
        where += f":{port}"
    path = _without_dots(_percent(_PATH_SESSION.sub("", parts.path)) or "/")
    query = sorted(p for p in _percent(parts.query, "?").split("&") if p and not _TRACKING.fullmatch(p.partition("=")[0]))
    head = "" if scheme in _PORTS else f"{scheme}://"
    return f"{head}{where}{path}" + ("?" + "&".join(query) if query else "")


def _ascii_host(host: str) -> str:
    host = host.rstrip(".").lower()
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return host


def _percent(part: str, more: str = "") -> str:
    """Decode what need not be encoded and encode the rest with capital digits; reserved characters stay as they were."""
    pieces = re.split(r"(%[0-9A-Fa-f]{2})", part)
    out = []
    for piece in pieces:
        if len(piece) == 3 and piece[0] == "%":
            decoded = unquote_to_bytes(piece)
            plain = decoded.isalnum() or decoded in (b"-", b".", b"_", b"~")
            out.append(decoded.decode("ascii") if plain else piece.upper())
        else:
            out.append(quote(piece, safe=_SAFE + more, errors="replace"))
    return "".join(out)


def _without_dots(path: str) -> str:
    """RFC 3986 section 5.2.4."""
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            if len(kept) > 1:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    if path.endswith(("/.", "/..")):
        kept.append("")
    joined = "/".join(kept)
    return joined if joined.startswith("/") else "/" + joined

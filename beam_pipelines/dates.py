"""One spelling for the dates of records, so that what is newer can be told (`buckets.age`): ISO 8601, times in UTC."""

import re
from datetime import UTC, datetime, timedelta, timezone
from email.utils import parsedate_to_datetime

_TIME = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?\s*(Z|UTC|GMT|JST|[+-]\d{2}:?\d{2}|[+-]\d{2})?"
_PARTS = re.compile(rf"([1-9]\d{{3}})(?:([-/.])(\d{{1,2}})(?:\2(\d{{1,2}})(?:[T\s]\s*{_TIME})?)?)?", re.IGNORECASE)
_KANJI = re.compile(rf"([1-9]\d{{3}})年(?:()(\d{{1,2}})月(?:(\d{{1,2}})日(?:\s*{_TIME})?)?)?", re.IGNORECASE)
_DIGITS = re.compile(r"([1-9]\d{3})(\d{2})(\d{2})(?:T?(\d{2})(\d{2})(\d{2})Z?)?")
_EPOCH = re.compile(r"(\d{10})(?:\.(\d{1,9})|(\d{3}|\d{6}|\d{9}))?")  # seconds; thousandths, millionths and billionths of one
_LATEST = 2_000_000_000  # seconds: 2033. What is more may be a date and an hour: 2024050112


def to_utc(stated: str) -> str | None:
    """The date as YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss[.f]Z, as exact as it was stated; "" of "", None if it is not understood.

    Understood: ISO 8601 with or without zeros before its numbers, with - / . or 年月日, and without any (20240105, 20240105103000); seconds
    since 1970 from 2001 to 2033, also thousandths, millionths and billionths; RFC 5322 (e-mail, HTTP). A time without a zone is UTC.

    Example:
      >>> to_utc("2024-1-5"), to_utc("2024-06-01T00:30:00+09:00"), to_utc("1709251200"), to_utc("soon")
      ('2024-01-05', '2024-05-31T15:30:00Z', '2024-03-01T00:00:00Z', None)
    """
    text = stated.strip()
    if not text or not text.isascii() and "年" not in text:
        return None if text else ""
    try:
        if found := _PARTS.fullmatch(text) or _KANJI.fullmatch(text):
            year, _, month, day, *time = found.groups()
            return _of_parts(year, month, day, *time)
        if found := _DIGITS.fullmatch(text):
            return _of_parts(*found.groups())
        if (found := _EPOCH.fullmatch(text)) and int(found[1]) < _LATEST:
            return _with_fraction(datetime.fromtimestamp(int(found[1]), UTC), found[2] or found[3])
        return _with_fraction(_aware(parsedate_to_datetime(text)), "")
    except (ValueError, OverflowError, TypeError):  # no such day, a year before the first, not a date at all
        return None


def _of_parts(
    year: str,
    month: str | None,
    day: str | None,
    hour: str | None = None,
    minute: str | None = None,
    second: str | None = None,
    fraction: str | None = None,
    zone: str | None = None,
) -> str:
    date = datetime(int(year), int(month or 1), int(day or 1), tzinfo=_zone(zone or ""))
    if hour is None:
        return date.strftime("-".join(["%Y"] + ["%m"] * bool(month) + ["%d"] * bool(day)))
    whole = 59 if second == "60" else int(second or 0)  # ISO 8601 knows the leap second, datetime does not
    return _with_fraction(date.replace(hour=int(hour), minute=int(minute or 0), second=whole), fraction)


def _zone(name: str) -> timezone:
    if name.upper() == "JST":
        return timezone(timedelta(hours=9))
    if name[:1] not in ("+", "-"):
        return UTC
    digits = name[1:].replace(":", "").ljust(4, "0")
    return timezone((1 if name[0] == "+" else -1) * timedelta(hours=int(digits[:2]), minutes=int(digits[2:])))


def _aware(moment: datetime) -> datetime:
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _with_fraction(moment: datetime, fraction: str | None) -> str:
    text = moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")  # years before 1000
    kept = (fraction or "").rstrip("0")
    return f"{text}.{kept}Z" if kept else f"{text}Z"

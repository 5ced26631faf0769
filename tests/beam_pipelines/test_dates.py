"""Dates of records in one form, by which the newest of several copies is told."""

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_pipelines.buckets import age
from beam_pipelines.dates import to_utc

KNOWN = {
    "2024-01-01T00:00:00Z": "2024-01-01T00:00:00Z",  # WARC-Date as Common Crawl writes it
    "2024-05-05T10:00:00.500Z": "2024-05-05T10:00:00.5Z",
    "2024-05-05T10:00:00.123456789Z": "2024-05-05T10:00:00.123456789Z",
    "2024-05-05": "2024-05-05",
    "2024-05": "2024-05",
    "2024": "2024",
    "": "",
    " 2024-1-5 ": "2024-01-05",
    "2024/1/5": "2024-01-05",
    "2024.12.01": "2024-12-01",
    "2024年1月5日": "2024-01-05",
    "2024年1月5日 9:05": "2024-01-05T09:05:00Z",
    "20240105": "2024-01-05",
    "20240105103000": "2024-01-05T10:30:00Z",
    "2024-06-01T00:30:00+09:00": "2024-05-31T15:30:00Z",
    "2024-06-01 00:30:00 +0900": "2024-05-31T15:30:00Z",
    "2024-05-31T18:00-05": "2024-05-31T23:00:00Z",
    "2024-06-01 00:30 JST": "2024-05-31T15:30:00Z",
    "2024-05-05T10:00:00": "2024-05-05T10:00:00Z",
    "2016-12-31T23:59:60Z": "2016-12-31T23:59:59Z",
    "1709251200": "2024-03-01T00:00:00Z",
    "1709251200.25": "2024-03-01T00:00:00.25Z",
    "1709251200000": "2024-03-01T00:00:00Z",
    "1709251200250000": "2024-03-01T00:00:00.25Z",
    "Fri, 01 Mar 2024 09:00:00 +0900": "2024-03-01T00:00:00Z",
}


@pytest.mark.parametrize("stated, utc", KNOWN.items())
def test_known_forms(stated, utc):
    assert to_utc(stated) == utc and to_utc(utc) == utc


@pytest.mark.parametrize(
    "stated",
    ["soon", "2024-13-01", "2024-02-30", "2024-05-05T25:00:00Z", "5", "202", "2024050112", "99999999999999999999", "令和6年", "２０２４", "2024-1/5", "0001-01-01T00:00:00+09:00"],
)  # fmt: skip
def test_what_is_no_date_is_none(stated):
    assert to_utc(stated) is None


def test_what_was_newest_by_its_spelling_alone():
    for older, newer in (
        ("2024-1-5", "2024-12-01"),
        ("2024-06-01T00:30:00+09:00", "2024-05-31T23:00:00Z"),
        ("1709251200", "2024-12-01"),
        ("soon", "2001"),
    ):
        assert age(to_utc(older) or "") > age(to_utc(newer) or "")


@given(
    st.datetimes(min_value=datetime.datetime(1990, 1, 1)),
    st.datetimes(min_value=datetime.datetime(1990, 1, 1)),
    st.integers(-720, 840),
)
def test_rank_is_that_of_the_moments_in_any_zone(one, two, minutes):
    zone = datetime.timezone(datetime.timedelta(minutes=minutes))
    one, two = (moment.replace(tzinfo=datetime.UTC, microsecond=moment.microsecond // 1000 * 1000) for moment in (one, two))
    if max(one, two).year > 9000:
        return
    ages = [age(to_utc(moment.astimezone(z).isoformat()) or "") for moment, z in ((one, zone), (two, datetime.UTC))]
    assert (ages[0] < ages[1]) == (one > two) and (ages[0] == ages[1]) == (one == two)

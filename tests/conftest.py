"""Which tests share a worker of pytest-xdist (`make test` runs two).

A file's tests stay together, so that what its fixtures build is built once. Tests that simulate several devices keep every core busy and
can abort in XLA's rendezvous when two of them meet; they stay together too, with the rest of tests/train, whose runs they compare with.
"""

from pathlib import Path

import pytest

_TESTS = Path(__file__).parent
_ONE_AT_A_TIME = ("train", "interop/test_sharded.py", "test_sharding.py")


def pytest_collection_modifyitems(items):
    for item in items:
        file = item.path.relative_to(_TESTS).as_posix()
        group = "devices" if file.startswith(_ONE_AT_A_TIME) else file
        item.add_marker(pytest.mark.xdist_group(group))

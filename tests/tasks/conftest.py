"""A changed copy of the evaluation sets' files."""

import shutil
import subprocess
from pathlib import Path

import pytest

RAW = Path(__file__).parent.parent / "evaluation" / "raw"


@pytest.fixture
def edited(tmp_path):
    """The function that makes it."""

    def change_file(name, change, sums=True):
        """A copy of the files in which one is changed; with `sums` its checksum is written anew."""
        shutil.copytree(RAW, tmp_path / "raw")
        path = tmp_path / "raw" / name
        if change is None:
            path.unlink()
        else:
            path.write_bytes(change(path.read_bytes()))
        if sums:
            subprocess.run(
                "find . -type f ! -name SHA256SUMS | xargs sha256sum > SHA256SUMS", shell=True, cwd=tmp_path / "raw", check=True
            )
        return tmp_path / "raw"

    return change_file

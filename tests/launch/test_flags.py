"""Each recommended flag is looked for in the library that reads it."""

import importlib.util
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ja_llm.errors import UsageError
from ja_llm.launch.flags import HARDWARE, environment, hardware, table

NAMES = {
    kind: {flag.name for entry in HARDWARE.values() if entry.kind == kind for flag in entry.flags}
    for kind in ("tpu", "gpu", "cpu")
}


def library(package: str, name: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    path = Path(spec.submodule_search_locations[0]) / name
    if not path.exists():
        pytest.skip(f"{path} is not there in this version of {package}")
    return path


def missing(path: Path, names: set[str]) -> list[str]:
    """Names that do not stand in the file as whole strings."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return sorted(name for name in names if content.find(b"\0" + name.encode() + b"\0") < 0)


def test_flags_of_tpus_stand_in_libtpu():
    assert missing(library("libtpu", "libtpu.so"), NAMES["tpu"]) == []


def test_flags_of_gpus_and_cpus_stand_in_jaxlib():
    path = library("jaxlib", "libjax_common.so")
    assert missing(path, NAMES["gpu"] | NAMES["cpu"]) == []
    assert missing(path, {"xla_gpu_enable_pipelined_al"}) != []


def test_xla_knows_all_flags_but_the_one_that_nobody_has():
    program = "import jax; jax.numpy.ones(2).block_until_ready()"
    flags = " ".join(str(flag) for kind in ("h200", "cpu") for flag in HARDWARE[kind].flags)
    env = {**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{flags} --xla_gpu_of_nobody=true"}
    result = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert result.returncode != 0
    assert re.findall(r"--\w+", result.stderr.split("Unknown flag", 1)[1].splitlines()[0]) == ["--xla_gpu_of_nobody"]


def test_every_flag_has_its_source_and_how_it_is_known():
    for entry in HARDWARE.values():
        for flag in entry.flags:
            assert (
                flag.why
                and flag.source in ("MaxText", "Levanter", "JAX", "Rendezvous")
                and flag.checked in ("binary", "run", "no")
            )
        assert len({flag.name for flag in entry.flags}) == len(entry.flags)


def test_flags_go_into_their_variable_and_the_user_s_stay():
    assert environment("v6e", {})["LIBTPU_INIT_ARGS"].endswith("--xla_tpu_scoped_vmem_limit_kib=98304")
    kept = environment("v6e", {"LIBTPU_INIT_ARGS": "--xla_tpu_scoped_vmem_limit_kib=65536"})["LIBTPU_INIT_ARGS"]
    assert kept.count("vmem") == 1 and kept.endswith("=65536")
    with pytest.raises(UsageError, match="'v9': there is no such kind"):
        hardware("v9")


def test_the_page_has_the_table():
    page = Path(__file__).resolve().parents[2] / "docs" / "pod.md"
    assert table() in page.read_text(encoding="utf-8")

"""Which tests share a worker of pytest-xdist (`make test` runs two).

A file's tests stay together, so that what its fixtures build is built once. Tests that simulate several devices keep every core busy and
can abort in XLA's rendezvous when two of them meet; they stay together too, with the rest of tests/train, whose runs they compare with.

Most of the suite's time would be XLA's optimization of programs that run once, so JAX is asked to leave it out, here and in the processes
that tests start; JAX_DISABLE_MOST_OPTIMIZATIONS=0 runs the suite on what users run.
"""

import os
import sys

import pytest

os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

_ONE_AT_A_TIME = ("train", "compile/test_compile.py", "interop/test_sharded.py", "attention/test_sharded.py", "test_sharding.py")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Whole files to a worker; `--dist loadgroup` would do it by marks, but pytest 9.2 does not see pytest-xdist 3.8's."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0].removeprefix("tests/")
            return "devices" if file.startswith(_ONE_AT_A_TIME) else file

    return ByFile(config, log)


@pytest.fixture
def optimized():
    """XLA as users run it, for comparisons whose tolerance is that of its sums."""
    import jax

    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] != "0")


@pytest.fixture(scope="session", autouse=True)
def _no_power_cuts():
    """Nothing here has to outlive the machine, and to wait for the disk would take minutes; what tests put in place of it is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda number: None)
        yield


@pytest.fixture(scope="module", autouse=True)
def _forget_compiled_programs():
    """A worker would keep every program of every module: gigabytes."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()

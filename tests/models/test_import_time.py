"""Importing the models costs JAX and Flax, and little beside them."""

import statistics
import subprocess
import sys


def seconds(code: str) -> float:
    """Of CPU time (user and system) that `code` takes in a fresh interpreter, so that other load on the machine does not count."""
    program = f"import time\nbegan = time.process_time()\n{code}\nprint(time.process_time() - began)"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return float(result.stdout)


def test_importing_the_models_takes_less_than_two_seconds():
    """About one on two quiet cores; of several runs the median, because the first one may write the bytecode."""
    assert statistics.median(seconds("import ja_llm.models.decoder, ja_llm.models.decode") for _ in range(3)) < 2

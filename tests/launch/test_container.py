"""The container's recipe names what there is: no daemon is needed to see that."""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RECIPE = (ROOT / "containers" / "train" / "Dockerfile").read_text()


def test_the_recipe_s_python_extras_and_files_are_the_project_s():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    python = re.search(r"^FROM python:([\d.]+)-slim$", RECIPE, re.M)[1]
    assert f"(Python {python})" in (ROOT / "requirements.lock").read_text().splitlines()[0]
    for extras in re.findall(r"EXTRAS=([\w,]+)", RECIPE):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])
    assert project["scripts"]["ja-llm"] and '"ja-llm"' in RECIPE and "ENTRYPOINT" not in RECIPE
    copied = re.search(r"^COPY (.+) /tmp/ja_llm/$", RECIPE, re.M)[1].split()
    allowed = (ROOT / ".dockerignore").read_text().split()
    assert allowed[0] == "*" and {f"!{name}" for name in copied} == set(allowed[1:])
    assert (ROOT / copied[0]).exists()

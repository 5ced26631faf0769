"""The same scalars on Weights & Biases, where a run names a project. Nothing of the run depends on it.

WANDB_MODE=offline, WANDB_ENTITY, WANDB_API_KEY and the rest are W&B's own. Its run id is kept in MODEL_DIR/wandb/run_id, so a run that
is gone on with goes on there, too. Points are placed by their "step": W&B's own counter never goes back, as a rollback does.
"""

import contextlib
import secrets
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_text


def module(project: str) -> Any:
    """The package `wandb`.

    Raises:
      UsageError: it is not installed.
    """
    try:
        import wandb
    except ImportError as error:
        raise UsageError(
            f"WANDB_PROJECT is {project!r}, but the package wandb is not installed; pip install 'ja_llm[wandb]', or leave WANDB_PROJECT out."
        ) from error
    return wandb


class WandbRun:
    """One run on W&B.

    Args:
      project: its project.
      directory: the run directory: its name is the run's, the identity in its run.json the run's configuration.
      folder: a folder of this machine for W&B's own files.

    Raises:
      UsageError: the package is not installed.
      JaLlmError: W&B can't be reached or refuses.
    """

    def __init__(self, project: str, directory: Path, folder: Path):
        wandb = module(project)
        ledger, id_file = directory / "run.json", directory / "wandb" / "run_id"
        if not id_file.exists():
            write_text(id_file, secrets.token_hex(8))
        try:
            self._run = wandb.init(
                project=project,
                id=id_file.read_text(encoding="utf-8").strip(),
                name=directory.name,
                dir=str(folder),
                resume="allow",
                config=read_json(ledger, "ledger")["identity"] if ledger.exists() else None,
                settings=wandb.Settings(silent=True, console="off", save_code=False, disable_git=True),
            )
        except Exception as error:  # W&B's own kinds
            said = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")[:200]
            raise JaLlmError(
                f"WANDB_PROJECT {project!r}: W&B could not be opened ({said}); run `wandb login`, set WANDB_MODE=offline, or leave "
                "WANDB_PROJECT out."
            ) from error
        self._run.define_metric("*", step_metric="step")

    @property
    def place(self) -> str:
        """Its page, or offline its folder, which `wandb sync` uploads."""
        return str(Path(self._run.dir).parent) if self._run.offline else str(self._run.url)

    def write(self, step: int, values: dict[str, float]) -> None:
        """Log the values of one step; what can't be sent, W&B keeps in its folder."""
        self._run.log({"step": step, **values})

    def close(self, failed: bool) -> None:
        """End it, as failed or not."""
        self._run.finish(exit_code=int(failed))


@contextlib.contextmanager
def opened(project: str | None, directory: Path, folder: Path) -> Iterator[WandbRun | None]:
    """The run on W&B for the length of the block; None where no project is named."""
    if project is None:
        yield None
        return
    run = WandbRun(project, directory, folder)
    print(f"train: metrics go to {run.place}, too.", file=sys.stderr, flush=True)
    failed = True
    try:
        yield run
        failed = False
    finally:
        run.close(failed)

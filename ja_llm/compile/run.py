"""What `ja-llm compile` does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ja_llm.compile import report
from ja_llm.compile.child import compile_in_child
from ja_llm.compile.hardware import parse_gpus, parse_topology
from ja_llm.compile.sweep import proposal, sweep
from ja_llm.errors import UsageError
from ja_llm.files import write_json
from ja_llm.launch.flags import compiler_options as flags_of
from ja_llm.manifest import software


def run(
    files: Sequence[str],
    bindings: Sequence[str],
    topology: str,
    *,
    search_paths: str = "",
    vocab_size: int | None = None,
    compiler_options: Mapping[str, str] | None = None,
    policies: Sequence[str] | None = None,
    microbatches: Sequence[int] | None = None,
    meshes: Sequence[Mapping[str, int]] = (),
    out: str | None = None,
    dump: str | None = None,
) -> int:
    """Compile, print, and write what was found; 0 if something fits (for GPUs: may fit), else 1.

    Args:
      files: gin files; see `ja_llm.compile.settings.settings`.
      bindings: `NAME = VALUE`.
      topology: e.g. "v5p:4x4x4", or "h100:16x8" (machines and GPUs in each).
      search_paths: comma-separated folders.
      vocab_size: rows of the embedding table.
      compiler_options: XLA's.
      policies: remat policies to choose from; None: as the gin files have it.
      microbatches: to choose from; None likewise.
      meshes: to choose from; none likewise.
      out: JSON file; of a sweep it has what is known so far, and at the end the proposed one first.
      dump: file for the scheduled HLO (of a sweep's last compilation).

    Raises:
      UsageError: settings do not fit.
      JaLlmError: the compiler ended without an answer.
    """
    swept = bool(policies or microbatches or meshes)
    if parse_gpus(topology) is None:
        parse_topology(topology)
    elif swept or compiler_options or dump:
        raise UsageError(
            f"--topology {topology}: for GPUs a step is lowered and not compiled, so there is no memory or time to choose by and no program to write; "
            "leave out --sweep, --remat, --microbatches, --mesh, --xla and --hlo, and bind MESH and MICROBATCHES."
        )
    found: list[dict[str, Any]] = []

    def keep() -> None:
        if out:
            write_json(Path(out), {"software": software("jax", "jaxlib", "libtpu"), "results": found})

    def one(candidate: Mapping[str, Any]) -> dict[str, Any]:
        result = compile_in_child(
            files,
            bindings,
            topology,
            search_paths=search_paths,
            vocab_size=vocab_size,
            candidate={name: value for name, value in candidate.items() if value},
            compiler_options=compiler_options,
            dump=dump,
        )
        found.append(result)
        keep()  # at once: a sweep takes hours, and may be ended
        return result

    if swept:
        found[:] = sweep(one, policies or (None,), microbatches or (0,), meshes or ({},), lambda line: print(line, flush=True))
        print(report.text(found[0]))
        print(proposal(found))
    else:
        print(report.text(one({})))
    keep()
    return 1 if found[0]["fits"] is False else 0


def with_flags(topology: str, given: Mapping[str, str], recommended: bool) -> dict[str, str]:
    """Compiler options for a topology: if `recommended` those that `ja-llm launch` sets there, and over them the given ones.

    Raises:
      UsageError: flags are recommended for GPUs, for which nothing is compiled, or the topology is none.
    """
    if not recommended:
        return dict(given)
    if parse_gpus(topology) is not None:
        raise UsageError(f"--flags with --topology {topology}: for GPUs a step is lowered and not compiled; leave it out.")
    return {**flags_of(parse_topology(topology)[0].platform_name), **given}

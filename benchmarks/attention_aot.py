"""Ahead-of-time compile of the TPU attention kernels (and of the loss at its full size) on a machine without a TPU.

    python -m benchmarks.attention_aot                  # v5e, v5p, v6e, tpu7x
    python -m benchmarks.attention_aot --only v5p --what loss
    python -m benchmarks.attention_aot --only v5e --lengths 4096 --widths 128 --output /tmp/one.json

Each line goes into benchmarks/results/attention_aot.json as soon as it is known, in place of the same case's line from before, so a
long run may be split over several calls. Needs the libtpu wheel. One process at a time: libtpu holds a lock. What this proves: Mosaic
takes the kernels and they fit VMEM. It says nothing about speed.
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.files import read_json, write_json

RESULTS = Path(__file__).resolve().parent / "results" / "attention_aot.json"
TOPOLOGIES = {"v5e": "v5e:2x2", "v5p": "v5p:2x2x1", "v6e": "v6e:2x2", "tpu7x": "tpu7x:2x2x1"}
HEADS, KV_HEADS = 8, 2  # groups of 4
LOSS = {"tokens": 32768, "embed": 4096, "vocab": 131072}
_KEY = ("tpu", "what", "length", "width")


def devices(topology: str) -> Any:
    """The topology's devices, or None where this libtpu does not know its name.

    Raises:
      UsageError: libtpu is not there or can't be used (another process holds its lock).
    """
    from jax.experimental import topologies

    try:
        return topologies.get_topology_desc(topology_name=topology, platform="tpu").devices
    except Exception as error:  # libtpu's errors have no class of their own
        if "Invalid TPU external name" in str(error):
            print(f"{topology}: this libtpu does not know it", file=sys.stderr)
            return None
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"{topology} can't be compiled for: {why}; install the libtpu wheel, and let no other process use it meanwhile."
        ) from error


def compiled(device: Any, function: Any, shapes: list[tuple[tuple[int, ...], str]]) -> dict[str, Any]:
    """Compile for the device; seconds, and bytes as XLA's buffer assignment has them."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    mesh = Mesh(np.array([device]), ("x",))
    whole = NamedSharding(mesh, PartitionSpec())
    arguments = [jax.ShapeDtypeStruct(shape, dtype, sharding=whole) for shape, dtype in shapes]
    began = time.perf_counter()
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        lowered = jax.jit(function).trace(*arguments).lower(lowering_platforms=("tpu",))
    text = lowered.as_text()
    made = lowered.compile()
    memory = made.memory_analysis()
    return {
        "seconds": round(time.perf_counter() - began, 2),
        "kernels": text.count("tpu_custom_call"),
        "argument_bytes": memory.argument_size_in_bytes,
        "output_bytes": memory.output_size_in_bytes,
        "temp_bytes": memory.temp_size_in_bytes,
    }


def attention_step(q: Any, k: Any, v: Any, segment_ids: Any, dout: Any) -> Any:
    """Output and the three gradients, by the TPU kernels."""
    import jax

    from ja_llm.attention import attention

    out, vjp = jax.vjp(lambda *x: attention(*x, segment_ids=segment_ids, implementation="tpu"), q, k, v)
    return out, vjp(dout)


def loss_step(x: Any, w: Any, targets: Any, weights: Any) -> Any:
    """The loss with its gradients."""
    import jax

    from ja_llm.losses.linear_cross_entropy import linear_cross_entropy

    return jax.value_and_grad(lambda x, w: linear_cross_entropy(x, w, targets, weights, z_loss=1e-4).loss_sum, (0, 1))(x, w)


def cases(args: argparse.Namespace) -> list[tuple[dict[str, Any], Any, Any]]:
    """(what it is, function, shapes) of everything that is asked of one device."""
    found: list[tuple[dict[str, Any], Any, Any]] = []
    for length in args.lengths if "attention" in args.what else ():
        for width in args.widths:
            q, k = (1, length, HEADS, width), (1, length, KV_HEADS, width)
            shapes = [(q, "bfloat16"), (k, "bfloat16"), (k, "bfloat16"), ((1, length), "int32"), (q, "bfloat16")]
            what = {"what": "attention", "length": length, "width": width, "group": HEADS // KV_HEADS}
            found.append((what, attention_step, shapes))
    n, e, v = LOSS.values()
    if "loss" in args.what:
        shapes = [((1, n, e), "bfloat16"), ((e, v), "bfloat16"), ((1, n), "int32"), ((1, n), "float32")]
        found.append(({"what": "loss", **LOSS}, loss_step, shapes))
    return found


def merge(output: Path, row: dict[str, Any], versions: dict[str, Any]) -> None:
    """Write the line into the file, in place of the one of the same case."""

    def key(line: dict[str, Any]) -> tuple[Any, ...]:
        return tuple(line.get(name) for name in _KEY)

    old = read_json(output)["results"] if output.exists() else []
    lines = [line for line in old if key(line) != key(row)] + [row]
    order = list(TOPOLOGIES)
    lines.sort(key=lambda r: (order.index(r["tpu"]), r["what"], r.get("length", 0), r.get("width", 0)))
    write_json(output, {"software": versions, "results": lines})


def main() -> int:
    """Compile everything that is asked for, print a line each, write it down; 1 if the compiler refused something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=TOPOLOGIES, default=list(TOPOLOGIES), help="generations")
    parser.add_argument("--what", nargs="+", choices=("attention", "loss"), default=["attention", "loss"])
    parser.add_argument("--lengths", type=int, nargs="+", default=[4096, 8192, 32768])
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    os.environ["JAX_PLATFORMS"] = "cpu"
    from ja_llm.manifest import software

    rows: list[dict[str, Any]] = []
    for name in args.only:
        try:
            device = devices(TOPOLOGIES[name])
        except UsageError as error:
            print(error, file=sys.stderr)
            return 1
        if device is None:
            continue
        for what, function, shapes in cases(args):
            try:
                found = {"ok": True, **compiled(device[0], function, shapes)}
            except Exception as error:  # a refusal of the compiler is this script's result
                found = {"ok": False, "error": str(error)[:500]}
            rows.append({"tpu": name, "device": device[0].device_kind, **what, **found})
            print(rows[-1], flush=True)
            merge(args.output, rows[-1], software("jax", "jaxlib", "libtpu"))  # a compiler that dies takes nothing along
    return 0 if rows and all(row["ok"] for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())

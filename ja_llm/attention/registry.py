"""The implementations by name: what each can do, where it runs, and which one a platform has by default.

A further one is a module with `compute(call) -> (out, lse or None)`, or a backend of `flash` (forward, dq, dkv), and an entry here.
"""

import dataclasses
import functools
import importlib
import logging
from collections.abc import Callable
from typing import Any

import jax

from ja_llm.attention.call import Call, Result
from ja_llm.errors import InputError

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Implementation:
    """One entry.

    Attributes:
      compute: see the module.
      platforms: where it runs ("cpu", "gpu", "tpu"); empty: everywhere.
      pairs: takes queries and keys in any order (a cache, a prefix), not only ordered packed rows.
      most_width: largest head dimension; None: any.
      own: written here, not an adapter.
      tiled: a backend of `flash`, which `interpreted` lets run anywhere.
      refuses: why it can't do a call, as the end of a sentence; None: it can.
    """

    compute: Callable[[Call], Result]
    platforms: tuple[str, ...] = ()
    pairs: bool = False
    most_width: int | None = None
    own: bool = True
    tiled: bool = False
    refuses: Callable[[Call], str | None] = lambda call: None


def _lazily(module: str) -> Callable[[Call], Result]:
    """Pallas takes a third of a second to import, so only who computes with it does."""
    return lambda call: importlib.import_module(f"ja_llm.attention.{module}").compute(call)


def _tiled(name: str) -> Callable[[Call], Result]:
    def compute(call: Call) -> Result:
        from ja_llm.attention import sharded

        return sharded.compute(call, name, importlib.import_module(f"ja_llm.attention.{name}"))

    return compute


def _adapter(name: str) -> dict[str, Any]:
    def module() -> Any:
        return importlib.import_module("ja_llm.attention.adapters")

    return {
        "own": False,
        "compute": lambda call: getattr(module(), name)(call),
        "refuses": lambda call: module().refuses(name, call),
    }


IMPLEMENTATIONS: dict[str, Implementation] = {
    "xla": Implementation(_lazily("xla"), pairs=True),
    "reference": Implementation(_lazily("reference"), pairs=True),
    "tpu": Implementation(_tiled("tpu"), ("tpu",), most_width=256, tiled=True),
    "triton": Implementation(_tiled("triton"), ("gpu",), most_width=256, tiled=True),
    "cudnn": Implementation(**_adapter("cudnn"), platforms=("gpu",), most_width=256),
    "splash": Implementation(**_adapter("splash"), platforms=("tpu",), most_width=256),
    # Not on TPUs: there it has no bounds of keys (k_start, k_end) for each query.
    "tokamax": Implementation(**_adapter("tokamax"), platforms=("gpu",), most_width=256),
}
# Places that are kept for what does not exist yet.
MISSING = {
    "mosaic_gpu": "it is not written: its kernels can't be interpreted on a CPU, and no Hopper GPU was at hand to prove them on"
}
DEFAULTS = {"tpu": "tpu", "gpu": "triton"}  # elsewhere "xla"


def platform() -> str:
    """Of the mesh in use (an abstract one for another machine counts), else JAX's default: "cpu", "gpu" or "tpu"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    name = jax.default_backend() if device is None else device.platform
    return "gpu" if name in ("cuda", "rocm") else name


def device_kind() -> str:
    """As `platform`, e.g. "TPU v5p" or "NVIDIA H200"."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def chosen(name: str | None) -> str:
    """The name itself, or for None the platform's default, which is said once in the log.

    Raises:
      InputError: no implementation has this name.
    """
    if name is None:
        name = DEFAULTS.get(platform(), "xla")
        _say_once(f"attention: the implementation for this platform is {name!r}")
    if not isinstance(name, str) or name not in IMPLEMENTATIONS:
        why = f" ({MISSING[name]})" if isinstance(name, str) and name in MISSING else ""
        raise InputError(f"there is no attention implementation {name!r}{why}; choose one of {', '.join(IMPLEMENTATIONS)}.")
    return name


def for_pairs(name: str | None) -> str:
    """Who computes a model's calls with a cache or a whole prefix when its `attention` is `name`.

    Those calls read a cache once for a few queries, which no tiled kernel makes faster; where the named implementation takes
    only packed rows, "xla" computes them, which is said once in the log.
    """
    name = chosen(name)
    if IMPLEMENTATIONS[name].pairs:
        return name
    _say_once(
        f"attention: {name!r} takes packed rows only; calls with a cache or a prefix that sees itself whole are computed by 'xla'"
    )
    return "xla"


_said: set[str] = set()


def _say_once(sentence: str) -> None:
    if sentence not in _said:
        _said.add(sentence)
        _log.info(sentence)


def check_available(name: str, call: Call) -> Implementation:
    """The implementation, if it can compute this call on this platform.

    Raises:
      InputError: it can't; the sentence says what is possible.
    """
    from ja_llm.attention.flash import interpreting

    found, here = IMPLEMENTATIONS[name], platform()
    anywhere = not found.platforms or (found.tiled and interpreting())
    if not anywhere and here not in found.platforms:
        able = [n for n, i in IMPLEMENTATIONS.items() if not i.platforms or here in i.platforms]
        raise InputError(
            f"the attention implementation {name!r} runs on {' and '.join(found.platforms)}, this platform is {here}; "
            f"choose one of {', '.join(able)}."
        )
    width = call.q.shape[-1]
    if found.most_width is not None and (width > found.most_width or width % 8):
        raise InputError(
            f"the head dimension is {width}; {name!r} takes multiples of 8 up to {found.most_width}, xla and reference take any."
        )
    if not found.pairs and not call.ordered:
        raise InputError(
            f"the attention implementation {name!r} takes packed rows in order: one array of segment ids, one of positions, as many "
            "queries as keys; for pairs (a cache, a prefix that sees itself whole) choose xla or reference."
        )
    if (why := found.refuses(call)) is not None:
        raise InputError(f"the attention implementation {name!r} {why}; choose xla or reference.")
    return found


@functools.cache
def names() -> tuple[str, ...]:
    """What a configuration may say: "default" is the platform's own."""
    return ("default", *IMPLEMENTATIONS)

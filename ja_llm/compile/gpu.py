"""One step lowered for GPUs that are not here: as far as it goes without their compiler.

XLA compiles for a GPU where one is (or its plugin); tracing and lowering need neither, and with an abstract mesh no devices. So what is
known is what the shardings and the lowered program say: whether mesh, batch and model fit each other, that the kernels lower, bytes of
state on one GPU, FLOPs. Temporaries, collectives and times are the compiler's and are not known.
"""

import time
from typing import Any

import jax

from ja_llm import sharding
from ja_llm.attention.registry import chosen
from ja_llm.compile.describe import GIB, described, model_flops, state_bytes
from ja_llm.compile.hardware import Gpu
from ja_llm.compile.settings import Settings
from ja_llm.models.decoder import Decoder
from ja_llm.train import loop
from ja_llm.train.state import plan_state
from ja_llm.train.step import loss_sums, make_train_step

# How a lowered program names our Pallas kernels for GPUs (jax 0.10 to 0.12).
_KERNEL = "custom_call @__gpu$xla.gpu.triton"


def lower_step(settings: Settings, gpu: Gpu, nodes: int, each: int) -> dict[str, Any]:
    """Lower a run's step for `nodes` machines with `each` GPUs.

    Returns:
      As `ja_llm.compile.aot.compile_step`, without what a compiler would say: "fits" is False if the state alone is more than a GPU
      has, else None; "temporaries" is not there.

    Raises:
      UsageError: mesh, batch or model do not fit each other.
    """
    device = jax.sharding.AbstractDevice(device_kind=gpu.device_kind, num_cores=1, platform="gpu")
    mesh: Any = sharding.abstract_mesh(dict(settings.mesh), nodes * each, device, slices=dict(settings.dcn_mesh))
    options = settings.options
    sharding.check_batch(mesh, settings.rules, settings.batch_size, settings.length, options.microbatches)
    plan, transformation = plan_state(settings.model, settings.optimizer, options, mesh, settings.rules)
    rows = sharding.batch_sharding(mesh, settings.rules)
    batch = (settings.batch_size, settings.length)
    gib = {kind: size / GIB for kind, size in state_bytes(plan, rows, batch).items()}
    began = time.perf_counter()
    with sharding.use(mesh, settings.rules):
        attention = chosen(None if settings.model.attention == "default" else settings.model.attention)
        train_step = make_train_step(
            loss_sums, Decoder(settings.model), transformation, settings.schedule, options, axes=plan.axes
        )
        lowered = loop.lowered_step(train_step, mesh, rows, plan, batch, platform="cuda")
    spare = gpu.gib - sum(gib.values())
    return {
        **described(settings, mesh, f"{gpu.name}:{nodes}x{each}", gpu.device_kind),
        "attention": attention,
        "kernels": lowered.as_text().count(_KERNEL),
        "lower_seconds": round(time.perf_counter() - began, 1),
        "fits": False if spare < 0 else None,
        "spare_gib": spare,
        "gib_per_chip": {**gib, "total": sum(gib.values()), "usable": gpu.gib},
        "flops": model_flops(settings),
    }

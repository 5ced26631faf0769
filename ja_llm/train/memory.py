"""Out of memory: what the step needs, what a device has, and which change would fit, found by compiling the candidates."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import jax

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.train.step import StepOptions

# Remat policies, each keeping less for the backward pass than the one before it.
LADDER = ("none", "minimal", "attention", "full")

# (model, options) -> compiled step
Compile = Callable[[DecoderConfig, StepOptions], Any]


def needed_bytes(compiled: Any) -> int | None:
    """Bytes that a compiled step takes on one device: state and batch, results that reuse nothing, temporaries."""
    found = compiled.memory_analysis()
    if found is None:
        return None
    reused = found.alias_size_in_bytes
    return found.argument_size_in_bytes + found.output_size_in_bytes - reused + found.temp_size_in_bytes


def device_bytes() -> int | None:
    """Bytes that one device offers; None where it does not say (a CPU)."""
    stats = jax.local_devices()[0].memory_stats()
    return stats.get("bytes_limit") if stats else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of XLA says that memory ran out."""
    text = str(error)
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text or "out of memory" in text.lower()


_ELSEWHERE = {
    "start": "there is not enough memory for the run's parameters and optimizer state; spread them over more devices (MESH fsdp or tensor), use a "
    "smaller optimizer (AdamW.moments, Adafactor), or train adapters (LORA).",
    "data": "there is not enough memory on the host to read a batch; give it more, or keep fewer stores in a mixture.",
    "evaluation": "there is not enough memory for an evaluation beside the run's own state; bind train.eval_documents = 0 (and no eval_tasks) and "
    "evaluate afterwards, or spread the model over more devices (MESH fsdp or tensor).",
    "checkpoint": "there is not enough memory to save a checkpoint; give the host more: a save holds a copy of parameters and optimizer state there.",
}


def elsewhere(phase: str) -> str | None:
    """The sentence for memory that ran out in a phase of the loop (`Goodput`) other than the step; None for the step and its compilation."""
    return _ELSEWHERE.get(phase)


def candidates(model: DecoderConfig, options: StepOptions, rows: int) -> Iterator[tuple[str, DecoderConfig, StepOptions]]:
    """Changes that need less memory and give the same losses, the cheapest first.

    Args:
      model: as it is.
      options: as they are.
      rows: rows of the batch that one device holds: more microbatches than that there can't be.
    """
    policies = LADDER[LADDER.index(model.remat_policy) :]
    parts = [n for n in (options.microbatches * 2**i for i in range(20)) if rows % n == 0]
    for n in parts or [options.microbatches]:
        for policy in policies:
            if (policy, n) != (model.remat_policy, options.microbatches):
                words = [f"remat_policy = {policy!r}"] * (policy != model.remat_policy)
                words += [f"MICROBATCHES = {n}"] * (n != options.microbatches)
                changed = dataclasses.replace(model, remat_policy=policy), dataclasses.replace(options, microbatches=n)
                yield " and ".join(words), *changed


def explain(
    compile_step: Compile, model: DecoderConfig, options: StepOptions, rows: int, limit: int | None, needed: int | None
) -> JaLlmError:
    """The sentence for a step that does not fit, with the first change that does.

    Args:
      compile_step: compiles a candidate.
      model: as it is.
      options: as they are.
      rows: rows of the batch on one device.
      limit: bytes of a device; None if not known.
      needed: bytes that the step needs; None if not known.
    """
    gib = 2**30
    said = "the step does not fit into the device's memory"
    if needed and limit:
        said += f" ({needed / gib:.2f} GiB a device, it has {limit / gib:.2f})"
    least: int | None = None
    for words, changed, with_options in candidates(model, options, rows):
        if limit is None:
            break
        try:
            size = needed_bytes(compile_step(changed, with_options))
        except Exception as error:  # XLA's own kinds; on a TPU it is the compiler that says so
            if not is_out_of_memory(error):
                raise
            continue
        if size is not None and size <= limit:
            return JaLlmError(f"{said}; {words} would fit ({size / gib:.2f} GiB).")
        least = size if least is None or (size is not None and size < least) else least
    if least and limit:
        times = -(-least // limit)
        return JaLlmError(
            f"{said}, nor with full remat and as many microbatches as there are rows ({least / gib:.2f} GiB); spread the model over "
            f"at least {times} times as many devices (MESH fsdp or tensor), or use a smaller optimizer (AdamW.moments, Adafactor)."
        )
    return JaLlmError(
        f"{said}; set remat_policy = 'full' in the model's gin file (MODEL_OVERRIDES for a checkpoint), raise MICROBATCHES, or spread "
        "the model over more devices (MESH fsdp or tensor)."
    )

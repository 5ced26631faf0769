"""What becomes of a step's numbers: a run that goes on, a line of metrics, or an offence."""

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from ja_llm.data.schedule import Position
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params, param_axes
from ja_llm.progress import Progress
from ja_llm.sharding import replicated
from ja_llm.train import flops
from ja_llm.train.metrics import MetricsWriter, read_metrics
from ja_llm.train.rollback import OffendingStep
from ja_llm.train.run_config import RunConfig

_BITS = "/bits_per_byte"
_PAIRS = "pairs"


def outcome(directory: Path, steps: int, already: bool) -> str:
    """What a run has come to, one line, as its metrics.jsonl has it.

    Args:
      directory: of the run, here or in a bucket.
      steps: its steps in all.
      already: it was there before, and nothing was trained.
    """
    path = directory / "metrics.jsonl"
    lines = read_metrics(path) if path.exists() else []
    parts = [f"{steps:,} steps"]
    if losses := [line["loss"] for line in lines if "loss" in line]:
        parts[0] += f", loss {losses[-1]:.3f}"
    measured: dict[str, list[float]] = {}
    for line in lines:
        for key, value in line.items():
            if key.startswith("eval/") and key.endswith(_BITS):
                measured.setdefault(key.removeprefix("eval/").removesuffix(_BITS), []).append(value)
    if measured:
        told = (f"{name} {' -> '.join(f'{value:.3f}' for value in (v[:1] + v[1:][-1:]))}" for name, v in measured.items())
        parts.append(f"held-out {', '.join(told)} bits/byte")
    return f"finished{' already' if already else ''}: {'; '.join([*parts, str(directory)])}"


def counting(mesh: Any) -> Callable[[Mapping[str, jax.Array]], dict[str, jax.Array]]:
    """What counts a batch's pairs, those without a weight too, beside the metrics of its step: their share without one is `repeat_masked`.

    A program of its own, so that the step's stays the same, whether rows are filtered or not.
    """
    return jax.jit(lambda batch: {_PAIRS: (batch["decoder_segment_ids"] > 0).sum()}, out_shardings=replicated(mesh))


class Report:
    """The numbers of the step before: fetched, judged, logged.

    Args:
      config: `RunConfig`.
      model: the decoder's configuration.
      data: batch_size and length.
      writer: where they go; None in a process that does not write.
      progress: what a person sees.
    """

    def __init__(self, config: RunConfig, model: DecoderConfig, data: Any, writer: MetricsWriter | None, progress: Progress):
        self._config, self._writer, self._progress = config, writer, progress
        self._peak = flops.peak_flops(jax.devices()[0], config.peak_tflops)
        self._flops = _flops_per_token(model, data.length, config.step.lora)
        self._tokens = data.batch_size * data.length  # padding is computed, too
        self.pending: tuple[int, Position, Any] | None = None  # step, the data position that it read, its metrics
        self.restart_clock()

    def convention(self) -> str | None:
        """What `mfu` is a share of and how its FLOPs are counted; None where the device's peak is not known, and there is none."""
        return f"mfu is of {self._peak / 1e12:.4g} TFLOP/s a device; {flops.CONVENTION}." if self._peak else None

    def restart_clock(self) -> None:
        """What was done since the last fetch was no step."""
        self._clock = time.monotonic()

    def fetch(self) -> None:
        """Wait for the pending step's numbers and log them.

        Raises:
          OffendingStep: loss or gradient are not finite, or the step is a spike that is to be rolled back.
        """
        if self.pending is None:
            return
        (step, (stage, data_step), metrics), self.pending = self.pending, None
        values = {k: float(v) for k, v in jax.device_get(metrics).items()}
        now = time.monotonic()
        seconds, self._clock = max(now - self._clock, 1e-9), now
        if not values.pop("finite"):
            raise OffendingStep(step, "the loss or its gradient is not finite")
        spikes = self._config.step.spikes
        if spikes is not None and values["spike"] and spikes.action == "rollback":
            raise OffendingStep(step, f"a spike (loss {values['loss']:.3f}, gradient norm {values['gradient_norm']:.3f})")
        values["tokens_per_second"] = values["target_tokens"] / seconds
        if pairs := values.pop(_PAIRS, 0.0):
            values["repeat_masked"] = 1 - values["target_tokens"] / pairs
        if self._peak:
            values["mfu"] = flops.mfu(self._flops, self._tokens / seconds, jax.device_count(), self._peak)
        if stats := jax.local_devices()[0].memory_stats():
            values["memory_peak_gib"] = stats.get("peak_bytes_in_use", 0) / 2**30
        values |= {"stage": stage, "data_step": data_step}
        if self._writer:
            self._writer.write(step, values)
        self._progress.update(1, f"loss {values['loss']:.4f}, {values['tokens_per_second']:.0f} tokens/s")


def _flops_per_token(model: DecoderConfig, length: int, lora: Any) -> float:
    if lora is None:
        return flops.flops_per_token(model, length)
    adapters = jax.tree.leaves(lora.adapters(abstract_params(model), param_axes(model))[0])
    return flops.adapted_flops_per_token(model, length, sum(math.prod(leaf.shape) for leaf in adapters))

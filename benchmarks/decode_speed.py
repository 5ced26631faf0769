"""Tokens per second of greedy generation, ours and transformers' on the same weights and device, batches of 1 and 8.

    python -m benchmarks.decode_speed [--prompt 32] [--new 64] [--repeats 5]

Shapes are those of gin_configs/models/tiny_3m.gin and smollm2_135m.gin with random weights, float32, the same threads. The
peer is transformers' `generate` with SDPA attention: on a CPU with its default cache; where JAX computes on a GPU, on that GPU with a
static cache (which transformers compiles), and both in full float32. Without a torch that sees the GPU nothing is measured. Both read the prompt and write every token (no EOS),
in turns within one process; what they write is compared. On a machine that others compute on, too, the ratio means nothing: waiting
threads of the peer lose more than ours. Reported: the median of the repeats, all repeats, and the ratio.
"""

import argparse
import os
import platform
import statistics
import time
import types
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks.step_speed import decoder
from ja_llm.errors import UsageError
from ja_llm.evaluation.generation import Generator
from ja_llm.files import read_json, write_json
from ja_llm.interop import hf_config
from ja_llm.manifest import software
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.models.families import tensors

RESULTS = Path(__file__).resolve().parent / "results" / "decode_speed.json"
SHAPES = {
    "tiny_3m": DecoderConfig(vocab_size=6000, **decoder(192, 6, 3, 1, 512, tie_embeddings=True)),
    "smollm2_135m": DecoderConfig(
        vocab_size=49152, **{**decoder(576, 30, 9, 3, 1536, tie_embeddings=True, rope_theta=1e5), "max_length": 2048}
    ),
}


def peer_device() -> str:
    """torch's name of the device that JAX computes on.

    Raises:
      UsageError: torch does not see it, so the two would not be measured on the same device.
    """
    import torch

    platform = jax.default_backend()
    if platform == "cpu":
        return "cpu"
    if platform != "gpu" or not torch.cuda.is_available():
        raise UsageError(
            f"JAX computes on {platform!r} and torch {torch.__version__} does not; install a torch for it, or set JAX_PLATFORMS=cpu."
        )
    torch.set_float32_matmul_precision("highest")
    jax.config.update("jax_default_matmul_precision", "highest")
    return "cuda"


def peer(config: DecoderConfig, params: Any, device: str) -> Any:
    """transformers' model with our numbers."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    settings = transformers.LlamaConfig(**hf_config.to_hf(config, "float32", 1, 2) | {"attn_implementation": "sdpa"})
    model = transformers.LlamaForCausalLM(settings).eval()
    state = {}
    for name, weight, parts in tensors(config):
        values = []
        for part in parts:
            leaf = params
            for key in part.path:
                leaf = leaf[key]
            values.append(np.asarray(leaf)[part.at])
        state[name] = torch.from_numpy(np.array(weight.to_theirs(values)))
    missing, unknown = model.load_state_dict(state, strict=False)
    assert not unknown and set(missing) <= {"lm_head.weight"}
    model.tie_weights()
    return model.to(device)


def measure(config: DecoderConfig, batch: int, prompt: int, new: int, repeats: int) -> dict[str, Any]:
    """Both on one shape and batch size."""
    import torch

    params = init_params(config, jax.random.key(0))
    params = jax.tree.map(lambda x: 3 * x if x.ndim > 2 else x, params)  # so that choices vary
    device = peer_device()
    model = peer(config, params, device)
    cache = {} if device == "cpu" else {"cache_implementation": "static"}
    ids = np.random.default_rng(batch).integers(3, config.vocab_size, (batch, prompt))
    tokenizer = types.SimpleNamespace(vocab_size=config.vocab_size, eos_id=-1)
    generator = Generator(types.SimpleNamespace(config=config, params=params, tokenizer=tokenizer), batch)

    def ours() -> list[list[int]]:
        return generator.continue_tokens(ids.tolist(), new, ignore_eos=True)

    def theirs() -> list[list[int]]:
        with torch.no_grad():
            settings = {"max_new_tokens": new, "do_sample": False, "eos_token_id": None, "pad_token_id": 0, **cache}
            return model.generate(torch.from_numpy(ids).to(device), **settings)[:, prompt:].tolist()

    began = time.perf_counter()
    first = ours()
    compiled = time.perf_counter() - began
    same = first == theirs()
    seconds: dict[str, list[float]] = {"ours": [], "transformers": []}
    cpu: dict[str, list[float]] = {"ours": [], "transformers": []}  # of all threads: torch's turn in place while they wait
    for _ in range(repeats):
        for name, run in (("ours", ours), ("transformers", theirs)):
            began, spent = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - began)
            cpu[name].append(time.process_time() - spent)
    speeds = {name: batch * new / statistics.median(values) for name, values in seconds.items()}
    return {
        "settings": {"prompt": prompt, "new": new, "repeats": repeats, "peer": {"device": device, **cache}},
        "load_average": os.getloadavg()[0],  # above the number of processors, others were computing too
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "same_tokens": same,
        "first_call_seconds": compiled,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "tokens_per_second": speeds,
        "ratio": speeds["ours"] / speeds["transformers"],
    }


def main() -> None:
    """Run all and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("prompt", 32), ("new", 64), ("repeats", 5)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--only", choices=SHAPES, help="one shape; the others stay in the result file as they are")
    args = parser.parse_args()
    results: dict[str, Any] = read_json(RESULTS)["results"] if args.only and RESULTS.exists() else {}
    for name in [args.only] if args.only else SHAPES:
        for batch in (1, 8):
            found = measure(SHAPES[name], batch, args.prompt, args.new, args.repeats)
            results[f"{name}, batch {batch}"] = found
            speeds = ", ".join(f"{who} {speed:.1f}" for who, speed in found["tokens_per_second"].items())
            print(f"{name}, batch {batch}: {speeds} tokens/s, ratio {found['ratio']:.2f}, same tokens {found['same_tokens']}")
            write(results)


def write(results: dict[str, Any]) -> None:
    """The result file, after each measurement."""
    machine = {"cpus": os.cpu_count(), "platform": platform.platform(), "device": str(jax.devices()[0])}
    packages = software("jax", "jaxlib", "flax", "torch", "transformers")
    write_json(RESULTS, {"machine": machine, "software": packages, "results": results})


if __name__ == "__main__":
    main()

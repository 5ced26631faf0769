"""`ja-llm generate`: prompts continued on the terminal while the model writes, or given continuations scored."""

import contextlib
import math
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from ja_llm import sharding
from ja_llm.errors import UsageError
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.sampling import Sampling
from ja_llm.evaluation.scoring import Scorer
from ja_llm.files import read_json, write_json
from ja_llm.storage import is_remote
from ja_llm.train.ledger import carried
from ja_llm.vocab.published import adds_bos


def continue_prompts(
    checkpoint: str,
    prompts: Sequence[str],
    out: TextIO,
    *,
    max_new_tokens: int = 64,
    stop: Sequence[str] = (),
    sampling: Sampling | None = None,
    seed: int = 0,
    scored: Sequence[str] = (),
    mesh: str | None = None,
    bos: bool | None = None,
) -> list[str]:
    """Write the continuation of each prompt to `out` as it comes, a line each; or, with `scored`, a line a continuation.

    Args:
      checkpoint: model directory, or DIR@STEP.
      prompts: texts; each begins a document.
      out: where to; on a terminal control characters are shown as escapes, for they could command it.
      max_new_tokens: tokens written at most.
      stop: a continuation ends before the first of these texts.
      sampling: how tokens are chosen; greedy when None.
      seed: of the draws.
      scored: given continuations, of which the model is asked how likely they are.
      mesh: devices along the mesh axes, such as "data=2,tensor=4"; None: one device.
      bos: whether BOS stands before a prompt; None: where the model's published tokenizer puts it. A score always has it.

    Returns:
      The continuations; none with `scored`.

    Raises:
      UsageError: no such model, mesh or device, or a prompt that does not fit.
      JaLlmError: the checkpoint can't be read.
    """
    texts = []
    devices = None if mesh is None else sharding.make_mesh(parse_mesh(mesh))
    with contextlib.nullcontext() if devices is None else sharding.use(devices):
        loaded = load_spread(checkpoint, devices)
        generator = None if scored else Generator(loaded, 1, ends=text_ends(loaded))
        first = [loaded.tokenizer.bos_id] if (adds_bos(loaded.tokenizer) if bos is None else bos) else []
        for number, prompt in enumerate(prompts):
            if generator is None:
                for found in score_continuations(loaded, prompt, scored):
                    out.write(f"{found['nats']:10.3f} nats{found['bits_per_byte']:8.3f} bits/byte  {found['text']!r}\n")
                continue
            ids = [*first, *loaded.tokenizer.encode(prompt)] or [loaded.tokenizer.bos_id]
            texts.append("")
            for piece in generator.stream(ids, max_new_tokens, stop, sampling=sampling or Sampling(), seed=seed, number=number):
                texts[-1] += piece
                out.write(harmless(piece) if out.isatty() else piece)
                out.flush()
            out.write("\n")
    return texts


def keep_samples(path: str | Path, prompts: Sequence[str], name: str, texts: Sequence[str]) -> None:
    """Put a model's continuations into the file that `ja-llm report --samples` shows, beside those of other models.

    Args:
      path: JSON file, {"prompts": [...], model: [...]}; made where it is not.
      prompts: of the texts.
      name: of the model; what the file has of it is replaced.
      texts: one a prompt.

    Raises:
      UsageError: the file holds texts for other prompts.
    """
    write_json(Path(path), {**kept_samples(path, prompts), name: list(texts)})


def model_name(checkpoint: str) -> str:
    """The folder's name, and the step where one was asked for: "ja", "ja@100".

    Raises:
      UsageError: the file of continuations has that name for something else.
    """
    from ja_llm.train.checkpoints import split_step

    directory, step = split_step(checkpoint)
    name = directory.absolute().name if not is_remote(directory) else directory.name
    if name == "prompts":
        raise UsageError(f"{checkpoint}: a samples file has its prompts under this name; give the model's folder another one.")
    return name if step is None else f"{name}@{step}"


def kept_samples(path: str | Path, prompts: Sequence[str]) -> dict[str, Any]:
    """What a file of continuations holds, with these prompts; errors as of `keep_samples`."""
    held = read_json(path, "samples file") if Path(path).exists() else {"prompts": list(prompts)}
    if not isinstance(held, dict) or held.get("prompts") != list(prompts):
        raise UsageError(f"{path}: this file holds texts for other prompts; give those, or another file.")
    return held


def text_ends(loaded: Any) -> list[int]:
    """Every id that ends a text by what the first weights came with, where this vocabulary's EOS is one of them."""
    found: set[int] = set()
    for name in ("generation", "token_ids"):
        ends = carried(loaded.ledger, name, {}).get("eos_token_id")
        if isinstance(ends, list) and loaded.tokenizer.eos_id in ends:
            found.update(i for i in ends if isinstance(i, int))
    return sorted(found)


def harmless(text: str) -> str:
    """The text with control characters as escapes, but for line ends and tabs: a terminal would take them for commands."""
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else f"\\x{ord(c):02x}" for c in text)


def parse_mesh(text: str) -> dict[str, int]:
    """ "data=2,tensor=4" as {"data": 2, "tensor": 4}.

    Raises:
      UsageError: it is not written so.
    """
    axes = {}
    for part in text.split(","):
        name, equals, size = part.partition("=")
        if not equals or not size.strip().lstrip("-").isdigit():
            raise UsageError(f"the mesh {text!r} is not understood; write axes and sizes such as data=2,tensor=4.")
        axes[name.strip()] = int(size)
    return axes


def load_spread(checkpoint: str, mesh: Any = None) -> Any:
    """A checkpoint with its arrays on the first device, or spread over a mesh; errors as of `load_model`."""
    from ja_llm.models.decoder import abstract_params, param_axes
    from ja_llm.train.checkpoints import load_model, read_model_files, split_step

    if mesh is None:
        return load_model(checkpoint)
    directory, _ = split_step(checkpoint)
    if not directory.exists():
        raise UsageError(f"{directory}: this model directory does not exist.")
    config, _ = read_model_files(directory)
    return load_model(checkpoint, shardings=sharding.shardings(param_axes(config), abstract_params(config), mesh))


def score_continuations(loaded: Any, prompt: str, continuations: Sequence[str]) -> list[dict[str, Any]]:
    """How likely a model finds texts behind a prompt.

    Prompt and continuation are cut into tokens together; the score is that of the tokens from the first on that is not the
    prompt's own, so a token that spans the border belongs to the continuation.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      prompt: begins a document; may be empty.
      continuations: at least one character each.

    Returns:
      For each {"text", "nats": sum of log-probabilities, "tokens": how many, "bits_per_byte": of the continuation's UTF-8}.

    Raises:
      UsageError: a continuation is empty, or does not fit behind the prompt into the model.
    """
    bos, encode = loaded.tokenizer.bos_id, loaded.tokenizer.encode
    alone = [bos, *encode(prompt)]
    found = []
    for text in continuations:
        ids = [bos, *encode(prompt + text)]
        if not text or len(ids) - 1 > loaded.config.max_length:
            wrong = (
                "is empty"
                if not text
                else f"has with its prompt {len(ids)} tokens, the model {loaded.config.max_length} positions"
            )
            raise UsageError(f"the continuation {text[:40]!r} {wrong}; give another one.")
        shared = next((n for n, (a, b) in enumerate(zip(alone, ids, strict=False)) if a != b), min(len(alone), len(ids)))
        found.append((text, ids, shared))
    scores = Scorer(loaded, min(len(found), 16), loaded.config.max_length).token_logprobs([ids for _, ids, _ in found])
    result = []
    for (text, ids, shared), score in zip(found, scores, strict=True):
        nats = float(score[shared - 1 :].sum(dtype=np.float64))
        bits = -nats / math.log(2) / len(text.encode())
        result.append({"text": text, "nats": nats, "tokens": len(ids) - shared, "bits_per_byte": bits})
    return result

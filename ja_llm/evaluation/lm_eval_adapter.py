"""Our checkpoints under lm-evaluation-harness (PyPI lm-eval 0.4): its tasks, prompts and metrics, our scoring and generation.

    import lm_eval
    from ja_llm.evaluation.lm_eval_adapter import JaLlm
    lm_eval.simple_evaluate(model=JaLlm("runs/ja"), tasks=["piqa"])

Importing this module registers the name "ja_llm" with the harness, for `simple_evaluate(model="ja_llm", model_args="checkpoint=runs/ja")`; the
harness's own command line does not import it and so does not know the name. `simple_evaluate(apply_chat_template=True)` takes the
checkpoint's chat template; from then on special tokens in a text are read as such, as the harness's own backend always does. The package
is optional: `pip install 'ja_llm[eval-oracles]'`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ja_llm import sharding
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation.branch_scoring import ContinuationScorer
from ja_llm.evaluation.chat_template import ChatTemplate
from ja_llm.evaluation.continuations import load_spread, parse_mesh, text_ends
from ja_llm.evaluation.generation import Generator
from ja_llm.evaluation.prefix_cache import PrefixCache

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.api.registry import register_model
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise JaLlmError(
        "lm_eval: this package is not installed, so lm-evaluation-harness can't run on our checkpoints; pip install 'ja_llm[eval-oracles]'."
    ) from error

_MAX_NEW_TOKENS = 256  # the harness's default


@register_model("ja_llm")
class JaLlm(TemplateLM):
    """A checkpoint as the harness wants a model.

    Args:
      checkpoint: model directory, or DIR@STEP; or a `ja_llm.train.checkpoints.LoadedModel`.
      batch_size: rows in a forward pass.
      add_bos_token: whether BOS stands before a context (our documents begin with it). The harness's own HF backend leaves it to
        the tokenizer where it is not told, so say it to both when two are compared.
      max_length: tokens at most, below the model's own limit.
      share: compute what rows share once (`branch_scoring.py`, `prefix_cache.py`).
      mesh: devices along the mesh axes, such as "data=8", for a `checkpoint` that is a path; None: one device.
      device: where the harness passes one on; the devices are JAX's, so it is not read.

    Raises:
      UsageError, JaLlmError: as of `load_model`; or `max_length` is above the model's own.
    """

    def __init__(
        self,
        checkpoint: Any,
        batch_size: int | str = 16,
        add_bos_token: bool = True,
        max_length: int | None = None,
        share: bool = True,
        device: Any = None,
        mesh: str | None = None,
    ):
        super().__init__()
        self._mesh = sharding.make_mesh(parse_mesh(mesh)) if mesh else None
        with self._on_mesh():
            loaded = load_spread(str(checkpoint), self._mesh) if isinstance(checkpoint, str | Path) else checkpoint
        if not str(batch_size).isdigit() or int(batch_size) < 1:
            raise UsageError(
                f"batch_size is {batch_size!r}; give a whole number of rows from 1 (shapes are compiled, none is guessed)."
            )
        most = loaded.config.max_length
        if max_length is not None and not 1 < int(max_length) <= most:
            raise UsageError(f"max_length is {max_length}, but this model takes 2 to {most} tokens; give a number between.")
        self.max_length = int(max_length or most)
        self.tokenizer, self.batch_size, self._bos = loaded.tokenizer, int(batch_size), add_bos_token
        # Decoded alone, as the harness does it, a text loses a leading space under SentencePiece and keeps it under byte-level BPE.
        self._drops_space = not self.tokenizer.decode(self.tokenizer.encode("a b")[1:]).startswith(" ")
        self.scorer = ContinuationScorer(loaded, self.batch_size, share)
        self._generator = Generator(loaded, self.batch_size, ends=text_ends(loaded))
        self._chat: ChatTemplate | None = None
        if share:
            self._generator.share_prefixes(PrefixCache(loaded.config, loaded.params))

    def _on_mesh(self) -> contextlib.AbstractContextManager[Any]:
        return sharding.use(self._mesh) if self._mesh else contextlib.nullcontext()

    @property
    def eot_token_id(self) -> int:
        """The end of a document."""
        return self.tokenizer.eos_id

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context."""
        return self.tokenizer.bos_id

    @property
    def tokenizer_name(self) -> str:
        """Known to the harness's caches by its content."""
        return f"ja_llm-{self.tokenizer.fingerprint}"

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids, behind BOS where the model was told so and a chat template has not written it."""
        begin = self._bos if add_special_tokens is None else add_special_tokens
        ids = self._chat.encode(string) if self._chat else self.tokenizer.encode(string)
        return ids if ids[:1] == [self.tokenizer.bos_id] or not begin else [self.tokenizer.bos_id, *ids]

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The dialogue as the checkpoint's template writes it; without the system's message where the template takes none, as in the
        harness's own backend.

        Raises:
          UsageError, JaLlmError: there is no template, or it refuses the dialogue.
        """
        self._chat = self._chat or ChatTemplate(self.tokenizer)
        try:
            return self._chat.render(chat_history, add_generation_prompt)
        except JaLlmError:
            plain = [message for message in chat_history if message["role"] != "system"]
            if len(plain) == len(chat_history):
                raise
            return self._chat.render(plain, add_generation_prompt)

    def _loglikelihood_tokens(
        self, requests: list[tuple[Any, list[int], list[int]]], disable_tqdm: bool = False, **kwargs: Any
    ) -> list[tuple[float, bool]]:
        """(log-likelihood in nats, whether greedy decoding gives the text) for each (_, context ids, continuation ids)."""
        rows = []
        for _, context, text in requests:
            if len(text) > self.max_length:
                raise UsageError(f"a continuation has {len(text)} tokens, but the model takes {self.max_length}; shorten it.")
            whole = (context + text)[-(self.max_length + 1) :]  # a context that does not fit loses its beginning
            rows.append((whole[: len(whole) - len(text)], text))
        with self._on_mesh():
            answers = [(score.nats, score.greedy) for score in self.scorer(rows)]
        for (key, _, _), answer in zip(requests, answers, strict=True):
            if key is not None:
                self.cache_hook.add_partial("loglikelihood", key, answer)
        return answers

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihoods (nats) of whole texts in windows without overlap, as the harness cuts them."""
        windows = [self._windows(request.args[0]) for request in requests]
        with self._on_mesh():
            scores = iter(self.scorer([window for of_one in windows for window in of_one]))
        return [float(sum(next(scores).nats for _ in of_one)) for of_one in windows]

    def _windows(self, text: str) -> list[tuple[list[int], list[int]]]:
        found: Iterator[tuple[list[int], list[int]]] = get_rolling_token_windows(
            token_list=self.tok_encode(text), prefix_token=self.prefix_token_id, max_seq_len=self.max_length, context_len=1
        )
        return [make_disjoint_window(pair) for pair in found]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Greedy texts up to a stop text.

        Raises:
          UsageError: a request wants samples; our tasks draw them (`tasks/`), the harness's are scored greedily here.
        """
        texts = [""] * len(requests)
        groups: dict[tuple[int, tuple[str, ...]], list[int]] = {}
        for number, request in enumerate(requests):
            groups.setdefault(_settings(request.args[1]), []).append(number)
        for (new_tokens, stop), numbers in groups.items():
            room = self.max_length - new_tokens
            if room < 1:
                raise UsageError(
                    f"{new_tokens} new tokens are asked for, but the model takes {self.max_length} in all; ask for fewer."
                )
            prompts = [self.tok_encode(requests[number].args[0])[-room:] for number in numbers]
            with self._on_mesh():
                found = self._generator.continue_ids(prompts, new_tokens, stop)
            for number, text in zip(numbers, found, strict=True):
                texts[number] = text = text.removeprefix(" ") if self._drops_space else text
                self.cache_hook.add_partial("generate_until", requests[number].args, text)
        return texts


def _settings(asked: dict[str, Any]) -> tuple[int, tuple[str, ...]]:
    """New tokens and stop texts of a request."""
    if asked.get("do_sample") and float(asked.get("temperature", 1.0)) > 0:
        raise UsageError(
            "a task asks for drawn texts (do_sample); here the harness gets greedy ones only: set do_sample to false."
        )
    names = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
    new_tokens = next((int(asked[name]) for name in names if asked.get(name) is not None), _MAX_NEW_TOKENS)
    until = asked.get("until") or []
    return new_tokens, tuple([until] if isinstance(until, str) else until)

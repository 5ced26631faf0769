"""Our decoder, optimizers, mixtures and evaluation tasks under t5x's own unmodified train.py, eval.py and infer.py.

Everything here is a gin configurable; the files of `gin_configs/t5x/` bind them beside t5x's stock ones:

    python -m t5x.train --gin_search_paths=gin_configs --gin_file=t5x/finetune.gin --gin.MODEL_DIRECTORY="'models/expanded'" ...

t5x is not on PyPI; docs/t5x.md says how it is installed, and has whole commands. Checkpoints: `t5x_checkpoints.py`.
"""

from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import gin
import jax
import jax.numpy as jnp
import optax
from t5x import models, optimizers

from ja_llm.data.mixing import MIXING
from ja_llm.data.packed_rows import ModelFeatures, add_rows_task
from ja_llm.data.seqio_vocabulary import SeqioVocabulary
from ja_llm.errors import UsageError
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.registry import GENERATE, SCORE, resolve
from ja_llm.evaluation.seqio_functions import bound_for_rows
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decode import Cache, decode_step, init_cache, prefill
from ja_llm.models.decoder import Decoder
from ja_llm.train import checkpoints
from ja_llm.train.learning_rates import Schedule
from ja_llm.train.optimizers import AdamW, Lion, Optimizer


@gin.configurable
def module(model_directory: str, overrides: Mapping[str, Any] | None = None) -> Decoder:
    """The decoder of a model directory.

    Args:
      model_directory: as `ja-llm import` writes it.
      overrides: execution fields (dtype, remat_policy, attention).

    Raises:
      UsageError: it is a mixture of experts, whose balance loss t5x's loss does not know.
    """
    config, _ = checkpoints.read_model_files(Path(model_directory).absolute())
    if config.num_experts > 1:
        raise UsageError(
            f"{model_directory}: t5x's loss has no balance loss for experts, and they would collapse; train this model by `ja-llm train`."
        )
    return Decoder(config.executed(overrides))


@gin.configurable
def vocabulary(model_directory: str) -> SeqioVocabulary:
    """The vocabulary of a model directory; equal to that of every task over the same tokenizer."""
    return SeqioVocabulary(checkpoints.read_model_files(Path(model_directory).absolute())[1])


@gin.configurable
def rows(
    cache_dir: str,
    vocabulary: SeqioVocabulary,
    task_feature_lengths: Mapping[str, int],
    seed: int = 0,
    packing: str = "concatenate",
    first_row: int = 0,
    mixing: str = MIXING,
) -> str:
    """Name of the seqio task of a cached mixture's rows (`ja_llm.data.packed_rows`), for MIXTURE_OR_TASK_NAME.

    t5x reads a task from its beginning when a run goes on; `first_row` is then the steps done times the batch size, and `mixing` that of
    `ja_llm.data.mixing` with which it began.
    """
    return add_rows_task(cache_dir, vocabulary, task_feature_lengths["targets"], seed, packing, first_row, mixing).name


@gin.configurable
def task(
    name: str,
    vocabulary: SeqioVocabulary,
    data: str | None = None,
    documents: str | None = None,
    pairs: str | None = None,
    limit: int | None = None,
    max_inputs: int | None = None,
) -> str:
    """Name of the seqio task of one of our evaluation sets, for MIXTURE_OR_TASK_NAME of eval.gin and infer.gin.

    An answer may be as long as a row leaves room: TASK_FEATURE_LENGTHS's `targets`, and what the prompt does not need of `inputs`.

    Args:
      name: as `ja-llm eval --task` takes it.
      vocabulary: of the model.
      data: folder of original files, as `ja-llm eval --data`.
      documents: document set, as `ja-llm eval --documents`.
      pairs: aligned pairs, as `ja-llm eval --pairs`.
      limit: examples (questions) at most.
      max_inputs: tokens of a prompt at most, its last ones (and BOS, where it begins with it); seqio itself would cut off the question.

    Raises:
      UsageError: there is no such task, t5x's evaluation can't run its kind, or a source is missing.
      JaLlmError: a source is damaged.
    """
    template = resolve(name)[0]
    if template.kind not in (SCORE, GENERATE) or template.samples > 1:
        raise UsageError(
            f"{name}: t5x gives one score or one text an example, and this task takes more ({template.kind}, {template.samples} texts); "
            "run it by `ja-llm eval`."
        )
    return bound_for_rows(template, vocabulary.tokenizer, Sources(documents, pairs, data), limit, max_inputs).name


@gin.configurable
def optimizer(settings: Optimizer, schedule: Schedule) -> optimizers.OptimizerDef:
    """Our optimizer chain and schedule as t5x's optimizer.

    With an optax chain the Trainer's `learning_rate_fn` is only what is logged, so bind that to the same schedule.

    Raises:
      UsageError: t5x can't partition the optimizer's state.
    """
    if not isinstance(settings, AdamW | Lion) or settings.moments != "float32":
        raise UsageError(
            f"{settings}: t5x knows how to spread the state of AdamW and Lion with float32 moments; choose one of them."
        )
    chain = settings.transformation()

    # optax names the links in an OrderedDict, which t5x restores as a dict.
    def init(params: Any) -> Any:
        return dict(chain.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        updates, state = chain.update(updates, state, params)
        return updates, dict(state)

    plain = optax.GradientTransformation(init, update)
    return optimizers.OptaxWrapper(optax.chain(plain, optax.scale_by_learning_rate(schedule)))


@gin.configurable
def learning_rate(schedule: Schedule) -> Schedule:
    """The schedule itself, for `Trainer.learning_rate_fn`."""
    return schedule


@gin.configurable
class DecoderModel(models.DecoderOnlyModel):
    """t5x's decoder-only model over our decoder: its loss, its scores, and generation with our own cache.

    Args:
      module: from `module`.
      vocabulary: from `vocabulary`.
      optimizer_def: from `optimizer`; None where nothing is trained.
      z_loss: coefficient of the squared log-normaliser.
      temperature: of generated tokens; 0 is greedy.
    """

    FEATURE_CONVERTER_CLS = ModelFeatures

    def __init__(
        self,
        module: Decoder,
        vocabulary: SeqioVocabulary,
        optimizer_def: Any = None,
        z_loss: float = 0.0,
        temperature: float = 0.0,
    ):
        # The weights' sum, as our trainer divides; t5x's default of None is a sum over tokens.
        super().__init__(module, vocabulary, optimizer_def, z_loss=z_loss, loss_normalizing_factor="NUM_REAL_TARGET_TOKENS")
        self._temperature = temperature

    def get_initial_variables(self, rng: Any, input_shapes: Mapping[str, Any], input_types: Any = None) -> Any:
        """See t5x; tokens are whole numbers also where it is not said (eval.py and infer.py give no types)."""
        types = {"decoder_input_tokens": jnp.int32} | dict(input_types or {})
        return super().get_initial_variables(rng, input_shapes, types)

    def predict_batch_with_aux(
        self,
        params: Any,
        batch: Mapping[str, jax.Array],
        rng: jax.Array | None = None,
        *,
        return_all_decodes: bool = False,
        num_decodes: int = 1,
        decoder_params: MutableMapping[str, Any] | None = None,
    ) -> tuple[jax.Array, Mapping[str, jax.Array]]:
        """Continue each row's prompt up to EOS or the row's end.

        Args:
          params: of the module.
          batch: rows of `ModelFeatures`; the prompt is where `decoder_causal_attention` is 1.
          rng: for temperatures above 0.
          return_all_decodes: give all `num_decodes`, else the likeliest.
          num_decodes: texts a prompt.
          decoder_params: `decode_rng` and `temperature` are read.

        Returns:
          (int32 [B, L] or [B, num_decodes, L]: the answer's ids, EOS behind; {"scores": float32 log-probabilities}).
        """
        if "decoder_causal_attention" not in batch:
            raise ValueError("these rows have no prompt; generate from a task of `inputs` and `targets`, not from packed rows.")
        given = dict(decoder_params or {})
        rng = given.get("decode_rng", rng)
        rng = jax.random.key(0) if rng is None else rng
        temperature = given.get("temperature", self._temperature)
        prompts = jnp.repeat(batch["decoder_input_tokens"], num_decodes, axis=0)
        lengths = jnp.repeat(batch["decoder_causal_attention"].sum(axis=1), num_decodes, axis=0)
        # t5x's module is wrapped in no config of its own: ours has it.
        found, scores = continue_rows(
            self.module.config, params, prompts, lengths, self.output_vocabulary.eos_id, temperature, rng
        )
        found, scores = (x.reshape(-1, num_decodes, *x.shape[1:]) for x in (found, scores))
        order = jnp.argsort(scores, axis=1)  # the likeliest last, as t5x has it
        found = jnp.take_along_axis(found, order[:, :, None], axis=1)
        scores = jnp.take_along_axis(scores, order, axis=1)
        return (found, {"scores": scores}) if return_all_decodes else (found[:, -1], {"scores": scores[:, -1]})


def continue_rows(
    config: DecoderConfig, params: Any, prompts: jax.Array, lengths: jax.Array, eos_id: int, temperature: float, rng: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Generate behind prompts, under jit.

    Args:
      config: of the decoder.
      params: of the decoder.
      prompts: int32 [B, L]; what stands behind a row's length is not read.
      lengths: int32 [B], 1 to L.
      eos_id: ends a row.
      temperature: 0 is greedy.
      rng: a key, for temperatures above 0.

    Returns:
      (int32 [B, L]: the tokens after the prompt, `eos_id` behind them; float32 [B]: their log-probability, EOS included).
    """
    rows, length = prompts.shape
    cache, logits = prefill(config, params, init_cache(config, rows, length), prompts, lengths)
    out = jnp.full((rows, length), eos_id, jnp.int32)
    done = jnp.zeros(rows, bool)
    start = (jnp.int32(0), cache, logits, out, jnp.zeros(rows), done)

    def unfinished(state: Any) -> jax.Array:
        at, *_, done = state
        return (at < length) & ~done.all()

    def step(state: Any) -> tuple[jax.Array, Cache, jax.Array, jax.Array, jax.Array, jax.Array]:
        at, cache, logits, out, score, done = state
        if temperature > 0:
            token = jax.random.categorical(jax.random.fold_in(rng, at), logits / temperature, axis=-1)
        else:
            token = logits.argmax(axis=-1)
        token = jnp.where(done, eos_id, token).astype(jnp.int32)
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), token[:, None], axis=1)[:, 0]
        score += jnp.where(done, 0.0, chosen)
        out = jax.lax.dynamic_update_index_in_dim(out, token, at, axis=1)
        # A row whose prompt and answer fill the row has no slot for a further token.
        done = done | (token == eos_id) | (lengths + at + 1 >= length)
        cache, logits = decode_step(config, params, cache, token)
        return at + 1, cache, logits, out, score, done

    _, _, _, out, score, _ = jax.lax.while_loop(unfinished, step, start)
    return out, score

"""config.json of a Hugging Face model and `DecoderConfig`: both directions by the family's tables, and what is refused."""

from typing import Any

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.models.config import ARCHITECTURE_FIELDS, FAMILIES, DecoderConfig
from ja_llm.models.families import Family, family


def from_hf(value: Any, where: str, param_dtype: str) -> DecoderConfig:
    """The decoder that config.json describes.

    Args:
      value: the parsed file.
      where: its path, for messages.
      param_dtype: of our parameters.

    Raises:
      JaLlmError: another architecture, a setting that we do not compute, a missing or impossible size.
    """
    if not isinstance(value, dict):
        raise JaLlmError(f"{where}: a JSON object is needed; download the model's config.json again.")
    value = _Looked(value)
    found = _family(value, where)
    if value.get("quantization_config") is not None:
        raise JaLlmError(f"{where}: there is a quantization_config; import a model whose weights are not quantised.")
    for key, allowed in found.settings.items():
        allowed = tuple(allowed)
        if value.get(key) is not None and value[key] not in allowed:
            raise JaLlmError(f"{where}: {key} is {value[key]!r}, which is not computed here; import a model with {allowed[0]!r}.")
    fields = {key.ours: key.read(value, where) for key in found.keys}
    for read, _ in found.more:
        fields |= read(value, where)
    for key in sorted(value.keys() - value.looked_at - _NOTES):
        if not key.startswith("_") and value[key] not in _OFF:
            raise JaLlmError(
                f"{where}: {key} is {value[key]!r}, which is not known here and may change what the model computes; "
                "if it does not, take it out of the file."
            )
    if missing := [name for name, content in fields.items() if content is None and name in _SIZES]:
        raise JaLlmError(f"{where}: nothing says {missing[0]}; download the model's config.json again.")
    try:
        return DecoderConfig(**fields, **found.fixed, param_dtype=param_dtype, family=found.name)
    except UsageError as error:
        raise JaLlmError(f"{where}: {str(error).splitlines()[0]}") from error  # gin adds lines of its own


class _Looked(dict):
    """config.json that remembers which keys the family's table asked for: others would be settings that nobody computes."""

    def __init__(self, value: dict[str, Any]):
        super().__init__(value)
        self.looked_at: set[str] = set()

    def get(self, key: Any, default: Any = None) -> Any:
        self.looked_at.add(key)
        return super().get(key, default)


_OFF: tuple[Any, ...] = (None, False, 0, "", [], {})
# Keys that change no logits: notes, token ids, defaults of generation, what only training does, how other software computes the same.
_NOTED = """
    architectures auto_map base_model_name_or_path cache_implementation chunk_size_feed_forward dtype finetuning_task
    gradient_checkpointing id2label initializer_range is_decoder is_encoder_decoder is_llama_config keys_to_ignore_at_inference
    label2id model_max_length model_type name_or_path output_attentions output_hidden_states prefix pretraining_tp problem_type
    return_dict task_specific_params tie_encoder_decoder tokenizer_class torch_dtype torchscript transformers.js_config
    transformers_version unsloth_fixed unsloth_version use_bfloat16 use_cache
    bos_token_id cls_token_id decoder_start_token_id eos_token_id pad_token_id sep_token_id unk_token_id
    bad_words_ids begin_suppress_tokens diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size
    exponential_decay_length_penalty forced_bos_token_id forced_eos_token_id length_penalty max_length max_new_tokens min_length
    no_repeat_ngram_size num_beam_groups num_beams num_return_sequences output_scores remove_invalid_values repetition_penalty
    return_dict_in_generate suppress_tokens temperature top_k top_p typical_p
    attn_pdrop classifier_dropout embd_pdrop hidden_dropout output_router_logits resid_pdrop router_aux_loss_coef router_jitter_noise
    attention_softmax_in_fp32 inference_runner max_batch_size max_sequence_length pad_key_length pre_allocate_kv_cache
    scale_attention_softmax_in_fp32 summary_activation summary_first_dropout summary_proj_to_labels summary_type summary_use_proj
    validate_runner_input sliding_window_size
"""  # the last two lines: GPTBigCode's first implementation; Gemma 2's first files, which say their window twice
_NOTES = frozenset(_NOTED.split())
# Keys that name tokens: an import keeps them, an export writes them.
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")

_SIZES = ("num_kv_heads", "head_dim", "max_length")


def _family(value: dict[str, Any], where: str) -> Family:
    kind = value.get("model_type", "unnamed")
    architectures = value.get("architectures")
    if architectures is not None and not isinstance(architectures, list):
        raise JaLlmError(f"{where}: architectures is {architectures!r}; a list is needed, so download the config.json again.")
    if kind in FAMILIES and (not architectures or family(kind).architecture in architectures):
        return family(kind)
    can = ", ".join(family(name).architecture for name in FAMILIES)
    said = ", ".join(map(str, architectures or ["no architecture"]))
    raise JaLlmError(f"{where}: this is a {kind!r} model ({said}); what can be imported is {can}.")


def to_hf(config: DecoderConfig, dtype: str, bos_id: int, eos_id: int) -> dict[str, Any]:
    """config.json for a decoder, in words that transformers 4 and 5 read.

    Raises:
      JaLlmError: the family has no word for something that the decoder computes.
    """
    found = family(config.family)
    written: dict[str, Any] = {"architectures": [found.architecture], "model_type": found.name}
    written |= {key.theirs: key.write(config) for key in found.keys}
    for _, write in found.more:
        written |= write(config)
    written |= {key: next(iter(allowed)) for key, allowed in found.settings.items()}
    written |= {"bos_token_id": bos_id, "eos_token_id": eos_id, "torch_dtype": dtype, "dtype": dtype, "use_cache": True}
    back = from_hf(written, "config.json", config.param_dtype)
    if other := [name for name in ARCHITECTURE_FIELDS if getattr(back, name) != getattr(config, name)]:
        raise JaLlmError(
            f"the family {config.family!r} has no word for {other[0]} = {getattr(config, other[0])!r}, so it can't be written as a "
            f"{found.architecture}; set DecoderConfig.family to one that has."
        )
    return written

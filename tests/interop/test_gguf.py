"""GGUF in: every block type, rotary rows put back, tokenizers with equal ids, and one sentence for what can't be read."""

import json
import struct

import gguf
import jax
import numpy as np
import pytest
import tokenizers

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import sha256_file
from ja_llm.interop.gguf import halves, open_gguf
from ja_llm.interop.gguf_file import GGUFFile
from ja_llm.interop.hf import export_hf, format_summary
from ja_llm.interop.importing import import_checkpoint
from ja_llm.interop.parameters import read_params, read_to_files
from ja_llm.models.decoder import Decoder, abstract_params
from ja_llm.train.array_files import NewArrays
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.train.ledger import new_ledger, parent_entry
from ja_llm.train.written_arrays import read_on_host
from ja_llm.vocab.sentencepiece_tokenizer import SentencePieceTokenizer

TYPES = gguf.GGMLQuantizationType
EMBED, HEADS, KV, WIDTH, MLP, LAYERS = 256, 4, 2, 64, 256, 2  # rows of 256: the largest block


def dequantised() -> list[TYPES]:
    """The types that the package can read, found by asking it."""
    found = []
    for kind, (_, size) in gguf.GGML_QUANT_SIZES.items():
        try:
            gguf.dequantize(np.zeros((1, size), np.uint8), kind)
            found.append(kind)
        except NotImplementedError:
            pass
    return found


def interleave(value: np.ndarray, heads: int) -> np.ndarray:
    """Rows as llama.cpp's converter stores them, written from its description: neighbours turn together."""
    width = value.shape[0] // heads
    order = [head * width + half * width // 2 + i for head in range(heads) for i in range(width // 2) for half in (0, 1)]
    return value[order]


def shapes(vocab: int, experts: int = 0) -> dict[str, tuple[int, ...]]:
    """Published names without layers -> shapes."""
    mlp = {"ffn_gate": (MLP, EMBED), "ffn_up": (MLP, EMBED), "ffn_down": (EMBED, MLP)}
    if experts:
        mlp = {f"{name}_exps": (experts, *shape) for name, shape in mlp.items()} | {"ffn_gate_inp": (experts, EMBED)}
    layer = {
        "attn_norm": (EMBED,),
        "attn_q": (HEADS * WIDTH, EMBED),
        "attn_k": (KV * WIDTH, EMBED),
        "attn_v": (KV * WIDTH, EMBED),
        "attn_output": (EMBED, HEADS * WIDTH),
        "ffn_norm": (EMBED,),
        **mlp,
    }
    whole = {"token_embd.weight": (vocab, EMBED), "output_norm.weight": (EMBED,)}
    return whole | {f"blk.{i}.{name}.weight": shape for i in range(LAYERS) for name, shape in layer.items()}


def add_tokenizer(writer, tokenizer) -> None:
    if isinstance(tokenizer, SentencePieceTokenizer):
        pieces = tokenizer.proto.pieces
        writer.add_tokenizer_model("llama")
        writer.add_token_list([p.piece for p in pieces])
        writer.add_token_scores([p.score for p in pieces])
        writer.add_token_types([p.type for p in pieces])
        writer.add_bos_token_id(tokenizer.bos_id)
        writer.add_eos_token_id(tokenizer.eos_id)
        writer.add_unk_token_id(tokenizer.unk_id)
        return
    tokens, merges, pre = tokenizer
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(merges)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)


def write(path, tokenizer, vocab=340, kind=TYPES.F32, seed=0, experts=0, leave=(), more=(), **metadata):
    """A model of random numbers as a GGUF file; gives its tensors as the file has them."""
    writer = gguf.GGUFWriter(path, metadata.pop("architecture", "llama"))
    sizes = {
        "context_length": 96,
        "embedding_length": EMBED,
        "block_count": LAYERS,
        "feed_forward_length": MLP,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV,
        **({"expert_count": experts, "expert_used_count": 2} if experts else {}),
    }
    for name, value in {**sizes, **metadata.pop("sizes", {})}.items():
        add = writer.add_string if isinstance(value, str) else writer.add_uint32
        add(f"llama.{name}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32("llama.rope.freq_base", 1e4)
    for name, value in metadata.items():
        writer.add_string(name, value)
    if tokenizer is not None:
        add_tokenizer(writer, tokenizer)
    rng, stored = np.random.default_rng(seed), {}
    for name, shape in {**shapes(vocab, experts), **dict(more)}.items():
        if name in leave:
            continue
        value = (rng.normal(size=shape) * 0.08 + (len(shape) == 1)).astype(np.float32)
        if len(shape) > 1 and kind != TYPES.F32:
            block, size = gguf.GGML_QUANT_SIZES[kind]
            # Bytes below 0x3c: no scale, of whatever format and place in the block, is infinite or no number.
            raw = rng.integers(0, 0x3C, (*shape[:-1], shape[-1] // block * size), np.uint8)
            stored[name] = (raw, kind)
            writer.add_tensor(name, raw, raw_dtype=kind)
        else:
            stored[name] = (value, TYPES.F32)
            writer.add_tensor(name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


@pytest.mark.parametrize("kind", dequantised(), ids=lambda kind: kind.name)
def test_every_block_type_gives_the_numbers_of_the_package(kind, tmp_path):
    stored = write(tmp_path / "x.gguf", None, kind=kind, vocab=8)
    file = GGUFFile(tmp_path / "x.gguf")
    reader = gguf.GGUFReader(tmp_path / "x.gguf")
    assert sorted(file) == sorted(t.name for t in reader.tensors) == sorted(stored)
    for tensor in reader.tensors[:9]:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.isfinite(expected).all() and expected.any()
        ours = file.read(tensor.name)
        np.testing.assert_array_equal(ours, expected.reshape(tuple(reversed(tensor.shape.tolist()))))
        np.testing.assert_array_equal(file.read(tensor.name, 3), ours[3])
    assert file.kinds()[kind.name] == (len(stored) if kind == TYPES.F32 else sum(len(v.shape) > 1 for v, _ in stored.values()))


def test_rows_of_each_head_are_put_back():
    rows = np.arange(24.0)[:, None] * np.ones((1, 3))
    np.testing.assert_array_equal(halves(interleave(rows, 4), 4), rows)
    np.testing.assert_array_equal(halves(interleave(rows[:, 0], 2), 2), rows[:, 0])
    assert (interleave(rows, 4) != rows).any()


IDS = np.random.default_rng(0).integers(0, 340, (2, 40))


def theirs(config_class, path, published) -> np.ndarray:
    """transformers' logits of the published form."""
    torch = pytest.importorskip("torch")
    import transformers

    sizes = {
        "vocab_size": 340,
        "hidden_size": EMBED,
        "intermediate_size": MLP,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    }
    config = getattr(transformers, f"{config_class}Config")(**sizes, **published.pop("settings", {}))
    config._experts_implementation = "eager"
    model = getattr(transformers, f"{config_class}ForCausalLM")(config).eval()
    state = {name: torch.from_numpy(np.array(value)) for name, value in published.items()}
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    with torch.no_grad():
        return model(torch.from_numpy(IDS)).logits.double().numpy()


NAMES = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def uninterleave(value, heads):
    width = value.shape[0] // heads
    back = np.empty_like(value)
    for head in range(heads):
        for i in range(width // 2):
            back[head * width + i], back[head * width + width // 2 + i] = value[head * width + 2 * i : head * width + 2 * i + 2]
    return back


def test_a_file_gives_the_logits_that_transformers_computes_and_its_settings(tokenizer, tmp_path):
    stored = write(tmp_path / "x.gguf", tokenizer, kind=TYPES.Q4_K)
    summary = import_checkpoint(tmp_path / "x.gguf", tmp_path / "model", try_texts=True)
    published = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}
    published |= {
        f"model.layers.{i}.{ours}.weight": f"blk.{i}.{name}.weight" for i in range(LAYERS) for name, ours in NAMES.items()
    }
    values = {name: gguf.dequantize(*stored[theirs_name]) for name, theirs_name in published.items()}
    values = {
        n: uninterleave(v, HEADS if "q_proj" in n else KV) if "q_proj" in n or "k_proj" in n else v for n, v in values.items()
    }
    loaded = load_model(tmp_path / "model")
    ours = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, IDS, IDS), np.float64)
    expected = theirs("Llama", tmp_path, values)
    assert np.linalg.norm(ours - expected) / np.linalg.norm(expected) <= 1e-5
    assert (loaded.config.norm_eps, loaded.config.max_length, loaded.config.tie_embeddings) == (1e-5, 96, True)
    assert loaded.tokenizer.encode("朝の市場 <0x41> x") == tokenizer.encode("朝の市場 <0x41> x")
    told = format_summary(summary)
    assert "15 Q4_K, " not in told and f"{7 * LAYERS + 1} Q4_K" in told.replace("\n", " ")
    assert "self-check" in told and "a sentence of Japanese" in told and "340 ids for 340 rows" in told
    export_hf(tmp_path / "model", tmp_path / "export")
    assert (tmp_path / "export" / "tokenizer.json").exists()


def test_experts_of_one_tensor_are_told_apart(tokenizer, tmp_path):
    stored = write(tmp_path / "x.gguf", tokenizer, experts=3)
    import_checkpoint(tmp_path / "x.gguf", tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.config.family == "mixtral" and loaded.config.num_experts == 3
    mlp = loaded.params["layers"]["mlp"]
    for ours, name in (("wi_0", "ffn_gate_exps"), ("wi_1", "ffn_up_exps"), ("wo", "ffn_down_exps")):
        for layer in range(LAYERS):
            expected = stored[f"blk.{layer}.{name}.weight"][0].swapaxes(1, 2)
            np.testing.assert_array_equal(np.asarray(mlp[ours]["kernel"])[layer], expected)


def test_numbers_that_are_streamed_into_files_are_those_of_arrays(tokenizer, tmp_path):
    """Half precision, with experts, whose tensors hold several of ours."""
    write(tmp_path / "x.gguf", tokenizer, kind=TYPES.Q8_0, experts=3)
    for dtype in ("float16", "bfloat16"):
        config, tensors, *_ = open_gguf(tmp_path / "x.gguf", dtype)
        ordinary, abstract = read_params(tensors, config, tmp_path), abstract_params(config)
        digests = read_to_files(tensors, config, tmp_path, NewArrays(tmp_path / dtype, abstract, tmp_path))
        streamed = read_on_host(tmp_path / dtype / "checkpoints" / "0" / "params", abstract)
        jax.tree.map(lambda a, b: np.testing.assert_array_equal(a.view(np.uint16), b.view(np.uint16)), streamed, ordinary)
        assert digests == {"x.gguf": sha256_file(tmp_path / "x.gguf")}


def test_divided_frequencies_are_llama_3s_or_refused(tokenizer, tmp_path, monkeypatch):
    from ja_llm.models.config import DecoderConfig
    from ja_llm.models.rope import frequencies

    sizes = {"vocab_size": 9, "embed_dim": 8, "num_layers": 1, "num_heads": 1, "num_kv_heads": 1, "mlp_dim": 8, "max_length": 8}
    plain = DecoderConfig(**sizes, head_dim=WIDTH, rope_theta=1e4)
    scaled = DecoderConfig(**sizes, head_dim=WIDTH, rope_theta=1e4, rope_scaling="llama3", rope_factor=32.0)
    divisors = np.asarray(frequencies(plain)) / np.asarray(frequencies(scaled))
    real = gguf.GGUFWriter.add_tensor

    def add(factors):
        def patched(self, name, value, **more):
            real(self, name, factors.astype(np.float32) if name == "rope_freqs.weight" else value, **more)

        monkeypatch.setattr(gguf.GGUFWriter, "add_tensor", patched)
        write(tmp_path / "x.gguf", tokenizer, more=[("rope_freqs.weight", (WIDTH // 2,))])

    add(divisors)
    import_checkpoint(tmp_path / "x.gguf", tmp_path / "model")
    config = load_model(tmp_path / "model").config
    assert (config.rope_scaling, config.rope_factor, config.rope_original_length) == ("llama3", 32.0, 8192)
    add(np.ones(WIDTH // 2))
    import_checkpoint(tmp_path / "x.gguf", tmp_path / "model")
    assert load_model(tmp_path / "model").config.rope_scaling == "none"
    add(divisors**0.5)
    with pytest.raises(JaLlmError, match="scales RoPE in another way than Llama 3.1"):
        import_checkpoint(tmp_path / "x.gguf", tmp_path / "other")


LINES = ["It was 1993, wasn't it?", "価格は12345円です。", "  two  spaces\n\nlines\t", "🙂 naïve <end> text", "I'LL 1,000.5"]


@pytest.mark.parametrize("word", ["gpt-2", "smollm", "starcoder", "refact", "command-r", "llama-bpe"])
def test_byte_level_tokenizers_give_the_ids_of_their_tokenizer_json(word, tmp_path):
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    llama3 = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=word != "llama-bpe")
    first = {
        "gpt-2": [],
        "llama-bpe": [pre_tokenizers.Split(Regex(llama3), "isolated")],
    }.get(word, [pre_tokenizers.Digits(individual_digits=True)])
    model = tokenizers.Tokenizer(models.BPE(ignore_merges=word == "llama-bpe"))
    # Numbers are cut by rule alone: digits are merged in training wherever the rule would keep them apart.
    model.pre_tokenizer = level if word != "llama-bpe" else pre_tokenizers.Sequence([*first, level])
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340, special_tokens=["<end>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    model.train_from_iterator(LINES * 20, trainer)
    model.pre_tokenizer = pre_tokenizers.Sequence([*first, level])
    value = json.loads(model.to_str())["model"]
    tokens = sorted(value["vocab"], key=value["vocab"].get)
    merges = [" ".join(pair) for pair in value["merges"]]
    write(tmp_path / "x.gguf", (tokens, merges, word), vocab=len(tokens))
    import_checkpoint(tmp_path / "x.gguf", tmp_path / "model")
    ours = load_model(tmp_path / "model").tokenizer
    model.encode_special_tokens = True
    for line in LINES:
        assert ours.encode(line) == model.encode(line).ids
        assert ours.decode(ours.encode(line)) == line
    assert "<end>" not in ours.decode([0])
    if word == "smollm":
        write(tmp_path / "y.gguf", (tokens, merges, "tekken"), vocab=len(tokens))
        with pytest.raises(JaLlmError, match="'tekken', which is not known here"):
            import_checkpoint(tmp_path / "y.gguf", tmp_path / "other")


SPOILT = {
    "another architecture": ({"architecture": "gemma2"}, "the architecture is 'gemma2'; GGUF files of 'llama'"),
    "a setting that is not computed": ({"sizes": {"attention.sliding_window": 64}}, "llama.attention.sliding_window is 64"),
    "heads of unequal widths": ({"sizes": {"attention.value_length": 32}}, "attention.value_length is 32, a head's width 64"),
    "other RoPE": ({"sizes": {"rope.scaling.type": "yarn"}}, "rope.scaling.type is 'yarn'"),
    "a missing tensor": ({"leave": ["blk.1.attn_v.weight"]}, "layers.1.self_attn.v_proj.weight is of this llama model missing"),
    "a left-over tensor": ({"more": [("blk.0.attn_sinks.weight", (4,))]}, "blk.0.attn_sinks.weight is unknown to the llama"),
    "another shape": ({"sizes": {"feed_forward_length": 512}}, r"\(256, 256\), config.json asks for \(512, 256\)"),
    "no table": ({"leave": ["token_embd.weight"]}, "token_embd.weight is missing"),
    "a tensor of no dimensions": (
        {"more": [("blk.0.attn_sinks.weight", ())]},
        "its tensor blk.0.attn_sinks.weight has no dimensions",
    ),
    "an alignment in letters": ({"general.alignment": "x"}, "general.alignment is 'x'; a whole number"),
    "a size in letters": ({"sizes": {"context_length": "96"}}, "llama.context_length is '96'; a whole number"),
    "no head": ({"sizes": {"attention.head_count": 0}}, "llama.attention.head_count is 0; a whole number"),
    "a small table": ({"vocab": 300}, "340 pieces but the embedding has 300 rows"),
}


@pytest.mark.parametrize("name", SPOILT)
def test_a_file_that_can_not_be_imported_gets_one_sentence(name, tokenizer, tmp_path):
    settings, message = SPOILT[name]
    write(tmp_path / "x.gguf", tokenizer, **settings)
    refused(tmp_path, message)


def test_scores_that_lack_some_pieces_get_one_sentence(tokenizer, tmp_path, monkeypatch):
    real = gguf.GGUFWriter.add_token_scores
    monkeypatch.setattr(gguf.GGUFWriter, "add_token_scores", lambda self, scores: real(self, scores[:-3]))
    write(tmp_path / "x.gguf", tokenizer)
    refused(tmp_path, "its tokenizer can't be used")


def test_a_chat_template_and_how_it_was_quantised_outlive_training(tokenizer, tmp_path):
    write(tmp_path / "x.gguf", tokenizer, kind=TYPES.Q8_0, **{"tokenizer.chat_template": "{{ messages }}!"})
    import_checkpoint(tmp_path / "x.gguf", tmp_path / "base")
    base = load_model(tmp_path / "base")
    ledger = new_ledger("train", {}, [parent_entry(base.directory, 0, base.ledger)])
    save_model(tmp_path / "run", config=base.config, params=base.params, tokenizer=base.tokenizer, ledger=ledger, step=5)
    export_hf(tmp_path / "run", tmp_path / "export")
    assert (tmp_path / "export" / "chat_template.jinja").read_text() == "{{ messages }}!"
    card = (tmp_path / "export" / "README.md").read_text()
    assert f"| the first weights were rounded to | {7 * LAYERS + 1} Q8_0, {2 * LAYERS + 1} F32 |" in card.replace(
        "5 F32, 15 Q8_0", "15 Q8_0, 5 F32"
    )


def refused(tmp_path, message):
    with pytest.raises(JaLlmError, match=message) as caught:
        import_checkpoint(tmp_path / "x.gguf", tmp_path / "model")
    assert "\n" not in str(caught.value) and str(tmp_path / "x.gguf") in str(caught.value)
    assert not (tmp_path / "model").exists()


def test_damaged_files_get_one_sentence(tokenizer, tmp_path):
    path = tmp_path / "x.gguf"
    write(path, tokenizer)
    whole = path.read_bytes()
    for end in (0, 3, 6, 20, 200, 3000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:end])
        refused(tmp_path, "no GGUF file" if end < 4 else "damaged or cut off")
    path.write_bytes(b"GGUF" + struct.pack("<I", 1) + whole[8:])
    refused(tmp_path, "version 1 can't be read")
    path.write_bytes(b"GGUF" + struct.pack(">I", 3) + whole[8:])
    refused(tmp_path, "in big-endian order")
    path.write_bytes(whole[:-4] + struct.pack("<f", float("nan")))
    refused(tmp_path, "numbers that are not finite")
    write(path, None)
    refused(tmp_path, "the file has no tokenizer")
    path.unlink()
    with pytest.raises(UsageError, match="there is no such file"):
        import_checkpoint(path, tmp_path / "model")


def test_a_folder_of_one_file_is_that_file_and_of_two_is_a_question(tokenizer, tmp_path):
    (tmp_path / "src").mkdir()
    write(tmp_path / "src" / "a.gguf", tokenizer)
    assert import_checkpoint(tmp_path / "src", tmp_path / "model")["source"].endswith("a.gguf")
    stored = GGUFFile(tmp_path / "src" / "a.gguf")
    scale = load_model(tmp_path / "model").params["decoder_norm"]["scale"]
    np.testing.assert_array_equal(scale, stored.read("output_norm.weight"))
    (tmp_path / "src" / "b.gguf").write_bytes(b"")
    with pytest.raises(UsageError, match="2 GGUF files here; name the one"):
        import_checkpoint(tmp_path / "src", tmp_path / "other")

"""Hugging Face folders in and out: transformers computes our logits, and nothing is lost on the way."""

import copy as pycopy
import dataclasses
import json
import os
import random
import shutil

import jax
import numpy as np
import pytest

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json, write_json
from ja_llm.interop.hf import LEDGER, export_hf, format_summary, import_hf
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.quickstart.pages import load_pages
from ja_llm.train.checkpoints import load_model, save_model
from tests.interop.hf_folders import contents

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


IDS = np.random.default_rng(0).integers(0, 351, (2, 40))


def distance(loaded, model) -> float:
    ours = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, IDS, IDS), np.float64)
    with torch.no_grad():
        theirs = model(torch.from_numpy(IDS)).logits.double().numpy()
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


@pytest.mark.parametrize(
    "settings",
    [{}, {"tie_word_embeddings": True, "theta": 1e6}, {"num_key_value_heads": 6, "head_dim": 10, "rms_norm_eps": 1e-3}],
)
def test_transformers_and_we_give_the_same_logits_in_both_directions(source, tmp_path, settings, tokenizer, texts):
    folder, model = source(**settings)
    summary = import_hf(folder, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert distance(loaded, model) < 1e-5
    assert summary["parameters"] == sum(p.numel() for p in model.parameters())
    export_hf(tmp_path / "model", tmp_path / "export")
    assert contents(tmp_path / "export") == contents(folder)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "export").eval()
    assert again.dtype == torch.float32 and distance(loaded, again) < 1e-5
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    for text in texts:
        assert theirs(text)["input_ids"] == [tokenizer.bos_id, *tokenizer.encode(text)]


def test_our_own_model_comes_back_bit_for_bit_scanned_or_not(tokenizer, tmp_path):
    for scan in (True, False):
        sizes = {
            "embed_dim": 24,
            "num_layers": 2,
            "num_heads": 4,
            "num_kv_heads": 2,
            "head_dim": 6,
            "mlp_dim": 40,
            "max_length": 32,
        }
        config = DecoderConfig(vocab_size=tokenizer.vocab_size, **sizes, scan_layers=scan)
        params = init_params(config, jax.random.key(1))
        ledger = {"job": "train", "identity_hash": "ab" * 32, "identity": {"data": "cd" * 32, "batch_size": 2, "length": 32}}
        save_model(tmp_path / f"model{scan}", config=config, params=params, tokenizer=tokenizer, ledger=ledger, step=7)
        export_hf(f"{tmp_path / f'model{scan}'}@7", tmp_path / "export")
        import_hf(tmp_path / "export", tmp_path / "back")
        back = load_model(tmp_path / "back")
        stacked = params
        if not scan:
            stacked = {k: v for k, v in params.items() if not k.startswith("layers_")}
            stacked["layers"] = jax.tree.map(lambda *x: np.stack(x), *(params[f"layers_{i}"] for i in range(2)))
        jax.tree.map(np.testing.assert_array_equal, back.params, stacked)
        assert back.config == dataclasses.replace(config, scan_layers=True)
        assert back.tokenizer.fingerprint == tokenizer.fingerprint
        card = (tmp_path / "export" / "README.md").read_text()
        assert "448 in rows of 32" in card and "cd" * 32 in card
        assert back.ledger["parents"][0]["identity_hash"] == "ab" * 32 and back.ledger["parents"][0]["step"] == 7
        shutil.rmtree(tmp_path / "back")


def test_bfloat16_and_several_files_are_read_and_written(copy, untied, tmp_path):
    # A copy: .to(bfloat16) rounds the rotary frequencies too, and .to(float32) does not bring them back.
    half = pycopy.deepcopy(untied[1]).to(torch.bfloat16)
    half.save_pretrained(tmp_path / "parts", max_shard_size="100KB")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "parts", dtype=torch.float32)
    for name in ("tokenizer.model", "special_ids.json"):
        shutil.copy(copy / name, tmp_path / "parts" / name)
    assert len(list((tmp_path / "parts").glob("*.safetensors"))) > 2
    import_hf(tmp_path / "parts", tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert loaded.params["decoder_norm"]["scale"].dtype == np.float32 and distance(loaded, model) < 1e-5
    summary = export_hf(tmp_path / "model", tmp_path / "small", dtype="bfloat16", max_shard_bytes=100_000)
    assert len(summary["files"]) > 2 and all(name in format_summary(summary) for name in summary["files"])
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "small")
    assert again.dtype == torch.bfloat16
    for (name, a), (_, b) in zip(again.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a.float(), b), name


def test_an_export_can_be_read_by_whom_the_umask_lets(copy, untied, tmp_path):
    import_hf(copy, tmp_path / "ours")
    export_hf(tmp_path / "ours", tmp_path / "theirs")
    umask = os.umask(0)
    os.umask(umask)
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "theirs").iterdir()}
    assert set(modes.values()) == {0o666 & ~umask}, modes


def test_folders_that_hold_something_else_are_kept(copy, tmp_path):
    import_hf(copy, tmp_path / "model")
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("x")
    for target in (copy, tmp_path / "thesis"):
        with pytest.raises(UsageError, match="holds something"):
            import_hf(copy, target)
        with pytest.raises(UsageError, match="no export of ours"):
            export_hf(tmp_path / "model", target)
    with pytest.raises(UsageError, match="no export of ours"):
        export_hf(tmp_path / "model", tmp_path / "model")
    assert (tmp_path / "thesis" / "chapter.tex").exists() and (tmp_path / "model" / "model.json").exists()
    export_hf(tmp_path / "model", tmp_path / "export")
    before = contents(tmp_path / "export")
    export_hf(tmp_path / "model", tmp_path / "export")  # an earlier export may be replaced
    assert contents(tmp_path / "export") == before


def test_the_licence_goes_with_the_weights(copy, tmp_path):
    (copy / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Someone's model\n")
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    assert "license: apache-2.0" in (tmp_path / "export" / "README.md").read_text()
    import_hf(tmp_path / "export", tmp_path / "second")
    assert load_model(tmp_path / "second").ledger["licence"] == "apache-2.0"
    assert json.loads((tmp_path / "export" / LEDGER).read_text())["job"] == "import"


def test_generation_settings_go_with_the_weights(copy, tmp_path, tokenizer):
    settings = {"temperature": 0.6, "top_p": 0.9, "do_sample": True, "eos_token_id": [tokenizer.eos_id, 5], "pad_token_id": 3}
    write_json(copy / "generation_config.json", {**settings, "bos_token_id": 99, "transformers_version": "4.0"})
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    assert read_json(tmp_path / "export" / "generation_config.json") == {**settings, "bos_token_id": tokenizer.bos_id}
    (copy / "generation_config.json").write_text("[1]")
    with pytest.raises(JaLlmError, match="generation_config.json: a JSON object is needed"):
        import_hf(copy, tmp_path / "second")


def test_a_chat_template_goes_with_the_weights(copy, tmp_path):
    template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    write_json(copy / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": template})
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    assert theirs.apply_chat_template([{"role": "user", "content": "港"}], tokenize=False) == "<user>港"
    import_hf(tmp_path / "export", tmp_path / "second")
    assert load_model(tmp_path / "second").tokenizer.chat_template == template


def test_auto_tokenizer_gives_our_ids_on_ten_thousand_lines(copy, tmp_path, tokenizer):
    """Lines of the embedded pages, and as many of random stretches of them with odd characters between."""
    import_hf(copy, tmp_path / "model")
    export_hf(tmp_path / "model", tmp_path / "export")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "export")
    lines = [line for page in load_pages() for line in page.text.splitlines() if line.strip()]
    draw = random.Random(0)
    odd = [" ", "  ", "\t", "🙂", "é", "\u3000", "ｶﾞ", "\n", "1234", "--", "\u200d", "한"]
    while len(lines) < 10_000:
        a, b = draw.choices(lines[:2000], k=2)
        lines.append(a[draw.randrange(len(a)) :] + draw.choice(odd) + b[: draw.randrange(1, 40)])
    assert theirs(lines, add_special_tokens=False)["input_ids"] == tokenizer.encode_batch(lines)

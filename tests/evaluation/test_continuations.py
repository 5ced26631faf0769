"""`ja-llm generate`: the terminal's text is the batch's, scores are plain forward passes, bad input gets a sentence."""

import io
import json
import math

import jax
import numpy as np
import pytest

from ja_llm.cli import main
from ja_llm.errors import UsageError
from ja_llm.evaluation.continuations import continue_prompts, harmless, model_name, parse_mesh, score_continuations
from ja_llm.evaluation.generation import Generator, generate
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import Decoder, init_params
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.vocab.train import train_sentencepiece

PROMPTS = ["朝の市場", "The harbour"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("generate")
    texts = ["The harbour wakes before the sun does.", "朝の市場には、採れたての野菜が並びます。"]
    tokenizer = train_sentencepiece([t * 3 for t in texts] * 20, out, vocab_size=330)
    sizes = {"embed_dim": 16, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "head_dim": 8, "mlp_dim": 24, "max_length": 96}
    config = DecoderConfig(vocab_size=tokenizer.vocab_size, **sizes)
    params = jax.tree.map(lambda x: 9 * x if x.ndim > 1 else x, init_params(config, jax.random.key(0)))
    return save_model(out / "model", config=config, params=params, tokenizer=tokenizer, ledger={})


def test_the_terminal_shows_the_batchs_text(folder):
    out = io.StringIO()
    continue_prompts(str(folder), PROMPTS, out, max_new_tokens=24)
    expected = [text.replace("\ufffd", "") for text in generate(load_model(folder), PROMPTS, 24)]
    assert out.getvalue() == "".join(text + "\n" for text in expected) and all(expected)


def test_scores_are_those_of_a_plain_forward_pass(folder):
    loaded = load_model(folder)
    texts = ["には、", " wakes", "🙂"]
    for found, text in zip(score_continuations(loaded, "朝の市場", texts), texts, strict=True):
        alone = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode("朝の市場")]
        ids = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode("朝の市場" + text)]
        shared = 0
        while shared < len(alone) and alone[shared] == ids[shared]:
            shared += 1
        row = np.array([ids])
        logits = np.asarray(Decoder(loaded.config).apply({"params": loaded.params}, row, row)[0], np.float64)
        expected = sum(logits[n - 1][ids[n]] - np.log(np.exp(logits[n - 1]).sum()) for n in range(shared, len(ids)))
        assert found["nats"] == pytest.approx(expected, rel=1e-4) and found["tokens"] == len(ids) - shared
        assert found["bits_per_byte"] == pytest.approx(-expected / math.log(2) / len(text.encode()), rel=1e-4)


def test_the_command_scores_and_refuses_in_one_sentence(folder, capsys):
    assert main(["generate", "--checkpoint", str(folder), "--prompt", "朝の", "--score", "市場", "--score", "harbour"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and "bits/byte" in lines[0] and lines[1].endswith("'harbour'")
    for wrong, message in [
        (["--prompt", "市" * 200], "exceeds the model's 96 positions"),
        (["--prompt", "a", "--max_tokens", "0"], "and 0 are asked for"),
        (["--prompt", "a", "--top_p", "2"], "top_p is 2.0; it must be above 0"),
        (["--prompt", "a", "--mesh", "tensor"], "the mesh 'tensor' is not understood"),
        (["--prompt", "a", "--mesh", "tensor=7"], "MESH tensor 7 does not make up"),
        (["--prompt", "a", "--score", ""], "the continuation '' is empty"),
        (["--prompt", "a", "--score", "b", "--temperature", "1"], "--score writes nothing, so --temperature would do nothing"),
        (["--prompt", "a", "--score", "b", "--stop", "c"], "--score writes nothing, so --stop would do nothing"),
        (["--prompt", "a", "--temperature", "1", "--seed", str(2**70)], "it must fit into 64 bits"),
        (["--prompt", "a", "--score", "b" * 200], "the model 96 positions"),
    ]:
        assert main(["generate", "--checkpoint", str(folder), *wrong]) == 2
        error = capsys.readouterr().err
        assert message in error and len(error.strip().splitlines()) == 1, error


def test_texts_are_kept_for_the_report_beside_those_of_other_models(folder, tmp_path, capsys):
    file = tmp_path / "samples.json"
    file.write_text(json.dumps({"prompts": PROMPTS[:1], "base": ["x"], "model@0": ["old"]}))
    command = ["generate", "--checkpoint", f"{folder}@0", "--max_tokens", "8", "--samples", str(file)]
    assert main([*command, "--prompt", PROMPTS[0]]) == 0
    said = capsys.readouterr().out.removesuffix("\n")
    assert said and json.loads(file.read_text()) == {"prompts": PROMPTS[:1], "base": ["x"], "model@0": [said]}
    assert main([*command, "--prompt", "他の"]) == 2
    assert "samples.json: this file holds texts for other prompts" in capsys.readouterr().err
    assert model_name("/data/u@lab/runs/ja") == model_name("ja") == "ja" and model_name("runs/ja@200") == "ja@200"
    assert main([*command[:2], "prompts", *command[3:], "--prompt", PROMPTS[0]]) == 2
    assert "another one" in capsys.readouterr().err


def test_a_mesh_is_written_as_axes_and_sizes():
    assert parse_mesh("data=2, tensor=-1") == {"data": 2, "tensor": -1}
    for wrong in ("", "data", "data=x", "data=2,,"):
        with pytest.raises(UsageError, match="is not understood"):
            parse_mesh(wrong)


def said(folder, **more) -> str:
    out = io.StringIO()
    continue_prompts(str(folder), PROMPTS[:1], out, max_new_tokens=24, **more)
    return out.getvalue()


def test_every_end_that_the_weights_came_with_ends_a_text(folder, tmp_path):
    loaded = load_model(folder)
    prompt = [loaded.tokenizer.bos_id, *loaded.tokenizer.encode(PROMPTS[0])]
    ids = Generator(loaded, 1).continue_tokens([prompt], 24)[0]
    place = next(n for n in range(3, 24) if ids[n] not in ids[:n])
    ledger = {"parents": [{"generation": {"eos_token_id": [loaded.tokenizer.eos_id, ids[place]]}}]}
    save_model(tmp_path / "chat", config=loaded.config, params=loaded.params, tokenizer=loaded.tokenizer, ledger=ledger)
    short = said(tmp_path / "chat")[:-1]
    assert said(folder).startswith(short) and Generator(loaded, 1, ends=[ids[place]]).continue_tokens([prompt], 24) == [
        ids[:place]
    ]
    assert len(short) < len(said(folder)[:-1])


def test_bos_stands_before_a_prompt_where_the_published_tokenizer_puts_it(folder, tmp_path):
    loaded = load_model(folder)
    ids = loaded.tokenizer.encode(PROMPTS[0])
    generator = Generator(loaded, 1)
    with_bos, without = ("".join(generator.stream(p, 24)) + "\n" for p in ([loaded.tokenizer.bos_id, *ids], ids))
    assert said(folder) == said(folder, bos=True) == with_bos != without == said(folder, bos=False)
    loaded.tokenizer.published = {"tokenizer_config.json": b'{"add_bos_token": false}'}
    save_model(tmp_path / "plain", config=loaded.config, params=loaded.params, tokenizer=loaded.tokenizer, ledger={})
    assert said(tmp_path / "plain") == without


def test_a_terminal_gets_no_control_characters():
    assert harmless("a\tb\n\x1b[2J\x07\x9b日") == "a\tb\n\\x1b[2J\\x07\\x9b日"

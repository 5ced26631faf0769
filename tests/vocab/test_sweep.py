"""The sweep: figures from known numbers, the rule, the plot."""

import dataclasses
import json
import xml.etree.ElementTree as ElementTree

import pytest

from ja_llm.commands.vocabulary import sweep_plot
from ja_llm.errors import UsageError
from ja_llm.models.config import DecoderConfig
from ja_llm.vocab.sweep import format_sweep, forward_flops, recommend, sweep_model, write_sweep

CONFIG = DecoderConfig(
    vocab_size=640, embed_dim=16, num_layers=2, num_heads=2, num_kv_heads=1, head_dim=8, mlp_dim=24, max_length=64
)


@pytest.fixture(scope="module")
def result(tmp_path_factory, base, params_of, document_set):
    from ja_llm.train.checkpoints import save_model

    folder = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, config=CONFIG, params=params_of(CONFIG), tokenizer=base, ledger={})
    return sweep_model(folder, document_set, [40, 200], pad_to=64)


def test_flops_are_those_of_the_matrix_products():
    """Each parameter of a matrix counts twice; the lookup of a row is free, the head is not."""
    import jax

    from ja_llm.models.decoder import Decoder, abstract_params

    short = dataclasses.replace(CONFIG, max_length=2, scan_layers=False)
    matrices = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(short)) if leaf.ndim > 1) - 640 * 16
    attention = 4 * 2 * 1 * 16  # layers, mean context, heads x width
    assert forward_flops(short) == pytest.approx(2 * matrices + attention, rel=1e-12)
    wide = dataclasses.replace(short, embed_dim=256, head_dim=64, num_heads=4, mlp_dim=512, max_length=256, attention="reference")
    tokens = jax.ShapeDtypeStruct((1, 128), "int32")
    run = jax.jit(lambda p, t: Decoder(wide).apply({"params": p}, t, t))
    cost = run.lower(abstract_params(wide), tokens).compile().cost_analysis()
    ours = forward_flops(wide) * 128  # 128 tokens, each with 128 of context: XLA counts the masked half too
    assert 0.95 < ours / (cost[0] if isinstance(cost, list) else cost)["flops"] < 1.05


def test_flops_of_other_architectures_are_theirs():
    """An MLP of two matrices has one fewer; of eight experts two are gone through; a window shortens what is seen."""
    plain = forward_flops(CONFIG)
    mlp = 2 * CONFIG.num_layers * CONFIG.embed_dim * CONFIG.mlp_dim
    assert plain - forward_flops(dataclasses.replace(CONFIG, gated_mlp=False)) == pytest.approx(mlp)
    experts = dataclasses.replace(CONFIG, num_experts=8, experts_per_token=2)
    router = 2 * CONFIG.num_layers * CONFIG.embed_dim * 8
    assert forward_flops(experts) - plain == pytest.approx(3 * mlp + router)
    near = dataclasses.replace(CONFIG, sliding_window=4)
    assert plain - forward_flops(near) > 4 * CONFIG.num_layers * 16 * (32 - 4)


def test_rows_tell_tokens_saved_and_tables(result):
    rows = result["rows"]
    assert [row["added"] for row in rows] == [0, 40, 200]
    assert [row["vocab_size"] for row in rows] == [640, 680, 840]
    assert [row["table_rows"] for row in rows] == [640, 704, 896]
    assert [row["table_parameters"] for row in rows] == [n * 16 * 2 for n in (640, 704, 896)]
    ja = [row["tokens_per_byte"]["ja"] for row in rows]
    assert ja == sorted(ja, reverse=True) and ja[0] > ja[-1]
    assert len({row["tokens_per_byte"]["en"] for row in rows}) == 1  # English is cut as before
    for row in rows:
        forward = forward_flops(dataclasses.replace(CONFIG, vocab_size=row["table_rows"]))
        mixed = 0.9 * row["tokens_per_byte"]["ja"] + 0.1 * row["tokens_per_byte"]["en"]
        assert row["training_flops_per_byte"] == pytest.approx(3 * forward * mixed)
        assert row["decoding_flops_per_byte"] == pytest.approx(forward * row["tokens_per_byte"]["ja"])


def test_a_mixture_of_one_language_needs_no_other(document_set, result, tmp_path_factory, base, params_of):
    from ja_llm.train.checkpoints import save_model

    folder = tmp_path_factory.mktemp("models") / "base"
    save_model(folder, config=CONFIG, params=params_of(CONFIG), tokenizer=base, ledger={})
    alone = sweep_model(folder, document_set, [40], share=1.0, other_lang="ko", pad_to=64)
    assert set(alone["rows"][1]["tokens_per_byte"]) == {"ja"}
    with pytest.raises(UsageError, match="in the language 'ko'; it has 'en', 'ja'"):
        sweep_model(folder, document_set, [40], share=0.9, other_lang="ko")
    row = result["rows"][1]
    assert alone["rows"][1]["decoding_flops_per_byte"] == row["decoding_flops_per_byte"]
    assert alone["rows"][1]["training_flops_per_byte"] == pytest.approx(3 * row["decoding_flops_per_byte"])


def test_the_rule_takes_the_smallest_near_the_least():
    rows = [{"added": n, "training_flops_per_byte": cost} for n, cost in ((0, 9.0), (8, 5.09), (16, 5.0), (32, 5.4))]
    assert recommend(rows, 0.02)["recommended"] == 8
    assert recommend(rows, 0.0)["recommended"] == 16
    assert "within 2% of the least" in recommend(rows, 0.02)["rule"]


def test_it_is_written_as_json_and_as_a_plot(result, tmp_path):
    write_sweep(result, tmp_path, sweep_plot(result))
    assert json.loads((tmp_path / "sweep.json").read_text()) == result
    root = ElementTree.parse(tmp_path / "sweep.svg").getroot()
    assert root.tag.endswith("svg")
    text = " ".join(root.itertext())
    assert "training FLOPs per byte of the mixture" in text and f"recommended: {result['recommended']} pieces" in text
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 3
    assert f"recommended: {result['recommended']}" in format_sweep(result)


def test_wrong_sizes_shares_and_models_are_refused(document_set, tmp_path):
    for sizes, share in (([], 0.5), ([0], 0.5), ([8], 1.5)):
        with pytest.raises(UsageError, match="give sizes from 1"):
            sweep_model(tmp_path, document_set, sizes, share=share)
    with pytest.raises(UsageError, match="does not exist"):
        sweep_model(tmp_path / "nowhere", document_set, [8])

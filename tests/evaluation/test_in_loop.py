"""Tasks inside training: what the evaluator gives for parameters is what `eval` measures on a checkpoint of them."""

from pathlib import Path

import jax
import pytest

from ja_llm.errors import UsageError
from ja_llm.evaluation import registry
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.in_loop import task_evaluators
from ja_llm.evaluation.run import evaluate
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import save_model
from ja_llm.vocab.train import train_sentencepiece

RAW = Path(__file__).parent / "raw"


def test_the_evaluator_measures_what_eval_measures(tmp_path):
    texts = [e["inputs"] for e in registry.resolve("jcommonsenseqa_strict")[0].examples(Sources(data=RAW), 3)]
    tokenizer = train_sentencepiece(texts, tmp_path / "vocab", vocab_size=600)
    config = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 1, 8, 32, 512)
    params = [jax.tree.map(lambda x: x * 4, init_params(config, jax.random.key(seed))) for seed in range(2)]
    evaluators = task_evaluators(["jcommonsenseqa_strict"], config, tokenizer, data=RAW, limit=4)
    found = [evaluators["jcommonsenseqa_strict"](p) for p in params]
    for number, p in enumerate(params):
        save_model(tmp_path / f"model{number}", config=config, params=p, tokenizer=tokenizer, ledger={})
        task = evaluate(tmp_path / f"model{number}", "jcommonsenseqa_strict", data=RAW, limit=4)["tasks"]["jcommonsenseqa_strict"]
        assert found[number] == {key: task[key] for key in ("accuracy", "accuracy_low", "accuracy_high")}
    assert found[0] != found[1]  # the second call is of its own parameters
    with pytest.raises(UsageError, match="needs data, which was not given"):
        task_evaluators(["jcommonsenseqa_strict"], config, tokenizer)


def test_on_several_hosts_only_what_gathers_is_measured(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    config = DecoderConfig(300, 16, 1, 2, 1, 8, 32, 512)
    for name in ("jcommonsenseqa_strict", "jemhopqa"):
        with pytest.raises(UsageError, match=f"{name}: a training run on several hosts measures held-out documents alone"):
            task_evaluators([name], config, None, data=RAW)

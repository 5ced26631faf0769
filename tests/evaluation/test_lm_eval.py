"""lm-evaluation-harness on tasks from local files: our adapter's scores equal those of the harness's own backend for transformers."""

import ast
import json
import os
import subprocess
import sys
import textwrap
import types

import jax
import pytest

from benchmarks.eval_speed import harness_backend
from ja_llm.errors import UsageError
from ja_llm.interop.hf import export_hf
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoints import load_model, save_model
from ja_llm.vocab.train import train_sentencepiece

pytest.importorskip("lm_eval", reason="lm-eval is not installed (pip install 'ja_llm[eval-oracles]')")
transformers = pytest.importorskip("transformers")

from ja_llm.evaluation.lm_eval_adapter import JaLlm  # noqa: E402

pytestmark = pytest.mark.usefixtures("optimized")

COLOURS = ("red", "blue", "green", "grey", "white")
ROWS = [
    {
        "question": f"The {thing} by the old station is {COLOURS[n % 5]}. Which colour is it?",
        "choices": [COLOURS[(n + k) % 5] + (" today" if k else "") for k in range(4)],
        "answer": 0,
    }
    for n, thing in enumerate(["house", "boat", "bridge", "tower", "gate", "shop", "car", "door", "wall", "roof"])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model in our form and in Hugging Face's, and rows of a task."""
    folder = tmp_path_factory.mktemp("harness")
    (folder / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    texts = [f"{r['question']} {' '.join(r['choices'])} 海は青い。" for r in ROWS] * 4
    tokenizer = train_sentencepiece([*texts, *["user: assistant: "] * 40], folder / "vocab", vocab_size=380)
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    config = DecoderConfig(
        tokenizer.vocab_size, embed_dim=16, num_layers=1, num_heads=2, num_kv_heads=2, head_dim=8, mlp_dim=32, max_length=256
    )
    params = jax.tree.map(lambda x: x * 3, init_params(config, jax.random.key(0)))
    save_model(folder / "ours", config=config, params=params, tokenizer=tokenizer, ledger={})
    export_hf(folder / "ours", folder / "theirs")
    return folder


def tasks(folder):
    """By likelihood (four shots shared by all, and one each), by a generated text, and rolling."""
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"train": str(folder / "rows.json"), "test": str(folder / "rows.json")}},
        "test_split": "test",
        "fewshot_split": "train",
        "doc_to_text": "Question: {{question}}\nAnswer:",
    }
    choice = {**common, "output_type": "multiple_choice", "doc_to_choice": "{{choices}}", "doc_to_target": "answer"}
    choice["metric_list"] = [{"metric": "acc"}, {"metric": "acc_norm"}]
    write = {
        **common,
        "output_type": "generate_until",
        "doc_to_target": "{{choices[0]}}",
        "metric_list": [{"metric": "exact_match"}],
    }
    write["generation_kwargs"] = {"until": ["\n"], "max_gen_toks": 12, "do_sample": False}
    rolling = {**common, "output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{question}}"}
    rolling["metric_list"] = [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}]
    return [
        {**choice, "task": "same_shots", "num_fewshot": 4, "fewshot_config": {"sampler": "first_n"}},
        {**choice, "task": "no_shots", "num_fewshot": 0},
        {**write, "task": "written", "num_fewshot": 2},
        {**rolling, "task": "rolling", "num_fewshot": 0},
    ]


def run(model, folder, names=(), **how):
    import lm_eval

    wanted = [task for task in tasks(folder) if not names or task["task"] in names]
    found = lm_eval.simple_evaluate(model=model, tasks=wanted, bootstrap_iters=0, log_samples=True, verbosity="ERROR", **how)
    return found["results"], found["samples"]


@pytest.fixture(scope="module")
def backend(folder, monkeypatch_module):
    HFLM = harness_backend()
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "theirs").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "theirs")
    return HFLM(pretrained=model, tokenizer=tokenizer, batch_size=4, device="cpu", add_bos_token=True)


@pytest.fixture(scope="module")
def theirs(folder, backend):
    return run(backend, folder)


@pytest.fixture(scope="module")
def monkeypatch_module():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"):
            patch.setenv(name, "1")
        yield patch


def same_text(ours, theirs):
    """Equal but for bytes that are no character, which an untrained model writes: each library shows those beside them in its own way, and
    at the limit we show nothing in their place."""
    own, other = (
        [None if c == "\ufffd" else byte for c in text for byte in c.encode()[: 1 if c == "\ufffd" else 4]]
        for text in (ours, theirs)
    )
    same_units = all(a == b or None in (a, b) for a, b in zip(own, other, strict=False))
    return same_units and len(own) <= len(other) and not any(other[len(own) :])


def same(ours, theirs, names):
    """Equal measures, log-likelihoods of the tasks `names`, and written texts."""
    (results, samples), (expected, their_samples) = ours, theirs
    for name in expected:
        numbers = {key: value for key, value in expected[name].items() if isinstance(value, float)}
        assert numbers and {key: results[name][key] for key in numbers} == pytest.approx(numbers, rel=1e-4), name
    for name in names:
        for own, other in zip(samples[name], their_samples[name], strict=True):
            got, want = ([response[0] for response in sample["resps"]] for sample in (own, other))
            assert [g for _, g in got] == [g for _, g in want]
            assert [float(nats) for nats, _ in got] == pytest.approx([float(nats) for nats, _ in want], abs=1e-4)
    for own, other in zip(samples["written"], their_samples["written"], strict=True):
        assert same_text(own["resps"][0][0], other["resps"][0][0])


@pytest.mark.parametrize("share", [True, False])
def test_scores_equal_the_harness_own_backend(folder, theirs, share):
    same(run(JaLlm(folder / "ours", batch_size=4, share=share), folder), theirs, ("same_shots", "no_shots"))


@pytest.mark.parametrize("multiturn", [True, False])
def test_chat_templates_are_applied_as_by_the_harness_own_backend(folder, backend, multiturn):
    how = {"names": ("same_shots", "written"), "apply_chat_template": True, "fewshot_as_multiturn": multiturn}
    expected = run(backend, folder, **how)
    context = str(expected[1]["written"][0]["arguments"][0][0])
    assert context.startswith("<s>user: ") and context.count("</s>") == (5 if multiturn else 1)
    same(run(JaLlm(folder / "ours", batch_size=4), folder, **how), expected, ("same_shots",))


def test_spread_over_devices_it_gives_the_same(folder):
    code = """
        import sys, types
        from ja_llm.evaluation.lm_eval_adapter import JaLlm
        model = JaLlm(sys.argv[1], batch_size=4, mesh="data=2,tensor=2")
        request = lambda *args: types.SimpleNamespace(args=args)
        pairs = [("Question: The house", " is red"), ("The", " boat is grey today"), ("The", " boat")]
        print([nats for nats, _ in model.loglikelihood([request(*pair) for pair in pairs], disable_tqdm=True)])
        print(model.loglikelihood_rolling([request("The house is red.")]))
        print(model.generate_until([request("The house", {"until": ["\\n"], "max_gen_toks": 8})]))
    """
    found = []
    for devices in (4, 1):
        env = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path), "JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
        env["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
        script = textwrap.dedent(code if devices > 1 else code.replace(', mesh="data=2,tensor=2"', ""))
        done = subprocess.run([sys.executable, "-c", script, str(folder / "ours")], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-2000:]
        found.append([ast.literal_eval(line) for line in done.stdout.splitlines()[-3:]])
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-4) and found[0][1] == pytest.approx(found[1][1], abs=1e-4)
    assert found[0][2] == found[1][2]


def test_what_does_not_fit_the_adapter_is_refused(folder):
    loaded = load_model(folder / "ours")
    with pytest.raises(UsageError, match="batch_size is 'auto'"):
        JaLlm(loaded, batch_size="auto")
    with pytest.raises(UsageError, match="this model takes 2 to 256"):
        JaLlm(loaded, max_length=512)
    model = JaLlm(loaded, max_length=40)
    request = lambda text, **kw: types.SimpleNamespace(args=(text, kw))  # noqa: E731
    with pytest.raises(UsageError, match="drawn texts"):
        model.generate_until([request("a", do_sample=True, temperature=0.7)])
    with pytest.raises(UsageError, match="40 new tokens are asked for"):
        model.generate_until([request("a", max_gen_toks=40)])
    with pytest.raises(UsageError, match="a continuation has"):
        model.loglikelihood([types.SimpleNamespace(args=("a", " house" * 50))])


def test_without_the_package_it_is_a_sentence():
    code = "import sys; sys.modules['lm_eval'] = None\nimport ja_llm.evaluation.lm_eval_adapter"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={"JAX_PLATFORMS": "cpu", "PYTHONPATH": ":".join(sys.path)},
    )
    assert "lm_eval: this package is not installed" in found.stderr.splitlines()[-1]

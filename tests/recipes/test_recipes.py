"""Every recipe resolves to the numbers of its source, by a table that was written from the sources and not from the files."""

import dataclasses
import itertools
import math
import os
import subprocess
import sys
from pathlib import Path

import gin
import jax
import pytest

from ja_llm.cli import main
from ja_llm.compile.settings import settings
from ja_llm.data import registry
from ja_llm.errors import UsageError
from ja_llm.files import write_json
from ja_llm.models.config import INIT_FIELDS
from ja_llm.models.decoder import abstract_params
from ja_llm.recipes import catalogue, compiled, estimate, tables
from ja_llm.recipes.published import Published
from ja_llm.train.main import train
from ja_llm.train.optimizers import AdamW

# name -> (steps, rows, length, warm-up, peak, where the rate ends, tokens as published and the unit they are rounded to)
SOURCES = {
    "aurora_m_15b": (103712, 2048, 2048, 2000, 1e-4, 1e-5, 435e9, 1e9),
    "llmjp_v3_13b": (494120, 1024, 4096, 2000, 2e-4, 2e-5, 2.07e12, 1e10),
    "llmjp_v3_13b_midtraining": (13304, 1024, 4096, 0, 2e-5, 0, 55.8e9, 1e8),
    "olmo2_7b_anneal": (11921, 1024, 4096, 0, 6.15e-5, 0, 50e9, 1e9),
    "olmo2_7b_stage1": (928646, 1024, 4096, 2000, 3e-4, 6.135e-5, 3.9e12, 1e11),
    "swallow_gemma2_9b": (25000, 512, 8192, 1000, 2.5e-5, 2.5e-6, 104.9e9, 1e8),
    "swallow_llama2_13b": (25000, 1024, 4096, 1000, 1e-4, 3.3e-6, 104.9e9, 1e8),
    "swallow_llama2_70b": (25000, 1024, 4096, 1000, 5e-5, 1.6e-6, 104.9e9, 1e8),
    "swallow_llama2_7b": (25000, 1024, 4096, 1000, 1e-4, 1e-4 / 30, 104.9e9, 1e8),
    "swallow_llama2_7b_parallel": (25000, 1024, 4096, 1000, 1e-4, 1e-4 / 30, 104.9e9, 1e8),
    "swallow_llama2_7b_parallel_first": (25000, 1024, 4096, 1000, 1e-4, 1e-4 / 30, 104.9e9, 1e8),
    "swallow_llama31_70b": (25000, 1024, 8192, 1000, 1e-5, 1e-6, 209.7e9, 1e8),
    "swallow_llama31_8b_v01": (27500, 1024, 8192, 1000, 2.5e-5, 2.5e-6, 230.7e9, 1e8),
    "swallow_llama31_8b_v02": (30000, 1024, 8192, 1000, 2.5e-5, 2.5e-6, 251.7e9, 1e8),
    "swallow_llama31_8b_v02_instruct": (30000, 1024, 8192, 1000, 2.5e-5, 2.5e-6, 251.7e9, 1e8),
    "swallow_mistral_7b": (25000, 1024, 4096, 1000, 1e-4, 3.3e-6, 104.9e9, 1e8),
    "swallow_mixtral_8x7b": (25000, 1024, 4096, 1000, 2e-5, 2e-6, 104.9e9, 1e8),
}
# mixture -> {source: billions of tokens, or per cent}, as the sources of the recipes have them; "+" joins what they have as one.
SHARES = {
    "swallow_llama2": {"web_ja": 88.33, "wikipedia_ja": 1.67, "refinedweb": 5.0, "arxiv": 5.0},
    "swallow_mixtral": {
        **{"web_ja": 62.136, "wikipedia_ja": 2.245, "arxiv": 14.316, "refinedweb": 11.303},
        **{"algebraic_stack": 5.0, "vault": 5.0},
    },
    "swallow_llama31_8b_v01": {
        **{"web_ja_education_wiki": 63.283, "web_ja_others": 41.335, "wikipedia_ja": 3.382, "stack": 32.0},
        **{"cosmopedia": 15.0, "dclm": 39.69, "wikipedia_en": 4.427, "parallel_ntp": 0.883},
    },
    "swallow_llama31_8b_v02": {
        **{"web_ja_education_llm": 93.095, "web_ja_education_wiki": 40.639, "wikipedia_ja": 3.382, "stack_python": 32.0},
        **{"cosmopedia": 14.929, "dclm": 10.644, "wikipedia_en": 4.427, "parallel_ntp": 0.883},
    },
    "swallow_llama31_70b": {
        **{"web_ja": 80.822, "wikipedia_ja": 1.691, "cosmopedia": 5.065, "algebraic_stack": 3.718, "openwebmath": 3.718},
        **{"wikipedia_en": 2.052, "refinedweb": 2.052, "parallel_ntp": 0.883},
    },
    "swallow_gemma2": {
        **{"web_ja": 79.804, "wikipedia_ja": 1.478, "cosmopedia": 5.086, "algebraic_stack": 4.541, "openwebmath": 4.541},
        **{"wikipedia_en": 1.89, "refinedweb": 1.89, "parallel_ntp": 0.77},
    },
    "llmjp_v3": {
        **{"web_ja": 36.8, "warp_pdf_ja": 11.5, "other_ja": 0.3, "dolma_web": 29.4, "c4": 8.8, "reddit": 4.0, "pes2o": 3.0},
        **{"books_en": 0.7, "stack": 5.5, "web_zh+web_ko": 0.1},
    },
    "llmjp_midtraining": {
        **{"dclm": 47.6, "flan": 16.6, "pes2o": 5.8, "wikipedia_en": 7.0, "stackexchange": 2.6, "dolmino_math": 20.5},
    },
    "olmo2_anneal": {
        **{"dclm": 47.2, "flan": 16.6, "stackexchange": 2.45, "pes2o": 5.85, "wikipedia_en": 7.11, "dolmino_math": 20.8},
    },
}
# What no source at hand says; theirs are checked for sums and stages alone.
OUR_SHARES = {"aurora_m_cap", "aurora_m_cat", "olmo2_stage1", "swallow_llama2_parallel_ntp", "parallel_ntp"}
# recipe -> (AdamW's eps, z-loss); the others have 1e-8 and none.
LOSSES = {
    **dict.fromkeys(("swallow_llama31_8b_v01", "swallow_llama31_8b_v02", "swallow_llama31_8b_v02_instruct"), (1e-8, 1e-4)),
    **{"swallow_llama31_70b": (1e-8, 1e-4), "swallow_mistral_7b": (1e-6, 0.0), "swallow_mixtral_8x7b": (1e-6, 0.0)},
    **{"olmo2_7b_stage1": (1e-8, 1e-5), "olmo2_7b_anneal": (1e-8, 1e-5), "llmjp_v3_13b": (1e-8, 1e-4)},
}
# Parameters in millions, from the makers' model cards (Swallow's with their larger tables).
MILLIONS = {"swallow_llama31_8b_v02": 8030, "swallow_gemma2_9b": 9242, "aurora_m_15b": 15517, "swallow_mixtral_8x7b": 46703}
# Whose step has not been through the compiler; the table says so.
NOT_COMPILED = set[str]()


# recipe -> where settings and mixture are known from, by the facts' trust tags (C: script, N: notes, M: memory); the others are scripts'.
KNOWN = {
    "aurora_m_15b": ("assumption", "assumption"),
    "llmjp_v3_13b_midtraining": ("assumption", "script"),
    "olmo2_7b_anneal": ("script", "notes"),
    "olmo2_7b_stage1": ("script", "memory"),
    "swallow_llama2_7b": ("notes", "notes"),
    "swallow_llama2_7b_parallel": ("notes", "assumption"),
    "swallow_llama2_7b_parallel_first": ("notes", "assumption"),
}
SAID = {"known_from": "script", "mixture_from": "script"}


@pytest.fixture(scope="module")
def recipes():
    """All recipes, resolved once."""
    return {recipe.name: recipe for recipe in catalogue.catalogue()}


def test_each_recipe_has_the_numbers_of_its_source(recipes):
    assert recipes.keys() == SOURCES.keys()
    for name, (steps, rows, length, warmup, peak, final, published, unit) in SOURCES.items():
        recipe = recipes[name]
        assert (recipe.steps, recipe.step.batch_size, recipe.step.length, recipe.warmup_steps) == (steps, rows, length, warmup), (
            name
        )
        assert (recipe.peak, recipe.final) == pytest.approx((peak, final), rel=2e-3), name
        assert round(steps * rows * length / unit) == round(published / unit), name
        assert recipe.tokens == steps * rows * length and recipe.published.agrees(recipe.tokens), name


def test_what_else_the_sources_state(recipes):
    for name, recipe in recipes.items():
        optimizer = recipe.step.optimizer
        assert (optimizer.b1, optimizer.b2, optimizer.weight_decay, optimizer.clip_norm) == (0.9, 0.95, 0.1, 1.0), name
        assert (optimizer.eps, recipe.step.options.z_loss) == LOSSES.get(name, (1e-8, 0.0)), name
        # OLMo 2 alone spares the embeddings, and decays its norms.
        assert optimizer.no_decay == (("token_embedder/*",) if name.startswith("olmo2") else AdamW().no_decay), name
    llmjp = recipes["llmjp_v3_13b"].step.schedule  # --lr-decay-iters, 2,000 before the end
    assert float(llmjp(492_120)) == pytest.approx(2e-5, rel=1e-5) and float(llmjp(491_000)) > 2.0001e-5
    drawn = {name: recipe.step.model.subset(INIT_FIELDS) for name, recipe in recipes.items()}
    assert {name: fields for name, fields in drawn.items() if fields} == {
        "olmo2_7b_stage1": {"init_std": 0.02, "init_cut": 3.0},
        "llmjp_v3_13b": {"init_std": 0.02, "init_depth_scaled": True},
    }
    assert {name for name, recipe in recipes.items() if not recipe.published.base} == {name for name in drawn if drawn[name]}
    assert {r.step.model.vocab_size for name, r in recipes.items() if "llama2" in name} == {32000 + 11176}
    assert recipes["swallow_llama31_70b"].step.model.rope_scaling == "llama3"
    assert all(recipe.step.model.dtype == "bfloat16" for recipe in recipes.values())
    assert recipes["olmo2_7b_anneal"].published.runs == 3
    bases = {name: recipes[name].published.base for name in ("swallow_llama31_8b_v02_instruct", "swallow_mixtral_8x7b")}
    assert all("Instruct" in base for base in bases.values())
    # The anneal begins at what the first stage had come to: 6.15e-5 as stated, 6.135e-5 by the cosine.
    assert recipes["olmo2_7b_anneal"].peak == pytest.approx(recipes["olmo2_7b_stage1"].final, rel=3e-3)


@pytest.mark.parametrize("name", SHARES)
def test_mixtures_are_those_that_were_published(name):
    given, total = registry.resolve(name), sum(SHARES[name].values())
    assert set(given) == {task for tasks in SHARES[name] for task in tasks.split("+")}
    for tasks, amount in SHARES[name].items():
        assert sum(given[task] for task in tasks.split("+")) == pytest.approx(amount / total, abs=1e-5), tasks


def test_every_recipe_reads_a_mixture_whose_shares_are_known_or_said_to_be_ours(recipes):
    read = {stage.mixture for recipe in recipes.values() for stage in recipe.stages}
    assert read == SHARES.keys() | OUR_SHARES
    for recipe in recipes.values():
        for stage in recipe.stages:
            assert sum(stage.shares.values()) == pytest.approx(1, abs=1e-9)
            if stage.mixture in OUR_SHARES:
                text = catalogue.text_of(recipe.name)
                assert "# Ours" in text or "# Uncertain" in text, recipe.name
    parallel = registry.resolve("swallow_llama2_parallel_ntp")
    assert parallel["parallel_ntp"] == pytest.approx(0.9 / 100.9)
    assert registry.resolve("swallow_llama2_parallel_ti")["parallel_ti"] == parallel["parallel_ntp"]


def test_every_recipe_has_a_cap_of_epochs():
    for name in catalogue.names():
        with settings([catalogue.file_of(name)], ()):
            assert gin.get_bindings(train)["max_epochs"] == 4, name


def test_stages_follow_each_other_without_a_gap(recipes):
    for recipe in recipes.values():
        assert recipe.stages[0].from_step == 0 and sum(stage.steps for stage in recipe.stages) == recipe.steps
        for one, two in itertools.pairwise(recipe.stages):
            assert one.from_step + one.steps == two.from_step
    aurora = recipes["aurora_m_15b"].stages
    assert [stage.mixture for stage in aurora] == ["aurora_m_cap", "aurora_m_cat"]
    assert aurora[0].steps * 2048 * 2048 == pytest.approx(377.5e9, abs=0.05e9)
    assert [s.mixture for s in recipes["swallow_llama2_7b_parallel_first"].stages] == ["parallel_ntp", "swallow_llama2"]


def test_a_stage_that_the_recipe_never_comes_to_is_refused():
    says = r"stage 2 of this run \(aurora_m_cat in none\) begins at step 90000, but the last step of its 50000 is 49999.*nothing but aurora_m_cap"
    with pytest.raises(UsageError, match=says):
        catalogue.resolve("aurora_m_15b", ["TRAIN_STEPS = 50000"])


def test_a_source_that_is_missing_is_named():
    tasks = registry.resolve("swallow_llama31_8b_v02")
    folders = {name: f"data/{name}" for name in tasks}
    assert registry.document_folders(tasks, folders).keys() == tasks.keys()
    del folders["cosmopedia"]
    with pytest.raises(UsageError, match="task 'cosmopedia' reads the document set 'cosmopedia'.*add --documents cosmopedia=DIR"):
        registry.document_folders(tasks, folders)


def test_every_recipe_says_where_it_comes_from(recipes):
    for name in recipes:
        comment = [line for line in catalogue.text_of(name).splitlines() if line.startswith("#")]
        text = "\n".join(comment)
        assert f"--gin_file=recipes/{name}.gin" in text and "# Source: " in text, name
        assert any(word in text for word in ("# Uncertain: ", "# Ours", "# Differs: ")), name


def test_settings_and_mixture_are_known_from_what_the_sources_say(recipes):
    said = {name: (recipe.published.known_from, recipe.published.mixture_from) for name, recipe in recipes.items()}
    assert said == {name: KNOWN.get(name, ("script", "script")) for name in recipes}
    for name, recipe in recipes.items():
        assert tables.row(recipe, 0.4)[-2:] == list(said[name]) and tables.HEADS[-2:] == (
            "settings known from",
            "mixture known from",
        )


def test_hours_by_the_compiler_do_not_contradict_each_other(recipes):
    """Published speeds are no expectation where the compiler's schedule allows no such speed."""
    below = set()
    for name, recipe in recipes.items():
        shown = tables.one(recipe, estimate.MFU)
        for place in estimate.hardware(recipe):
            assert place.compiled is not None
            steps = recipe.steps * recipe.published.runs * place.chips / 3600
            least, expected = (place.compiled[key]["step_seconds"] * steps for key in ("time", "expected"))
            assert f"no less than {least:,.0f} chip-hours" in shown and place.chip_hours >= least
            below |= {name} if expected < least else set()
            assert (f"speeds of that chip about {expected:,.0f}" in shown) == (expected >= least), name
    assert below == {"swallow_gemma2_9b", "olmo2_7b_stage1", "olmo2_7b_anneal"}


def test_chip_hours_are_tokens_times_flops_over_peak_times_mfu(recipes):
    # 51.5 GFLOPs a token (facts of Llama 3.1 8B at 8192, causal half), 459 TFLOP/s a chip.
    hours = 251.66e9 * 51.5e9 / (459e12 * 0.5) / 3600
    assert estimate.chip_hours(recipes["swallow_llama31_8b_v02"], "v5p:4x4x4", 0.5) == pytest.approx(hours, rel=2e-3)
    three = estimate.chip_hours(recipes["olmo2_7b_anneal"], "v6e:16x16")
    one = recipes["olmo2_7b_anneal"]
    assert three == pytest.approx(3 * one.tokens * one.flops_per_token / (918e12 * estimate.MFU) / 3600)
    for wrong in (40, 0, math.nan):
        with pytest.raises(UsageError, match=f"--mfu {wrong}: give a share"):
            estimate.chip_hours(one, "v6e:16x16", wrong)


def test_the_models_are_of_the_published_sizes(recipes):
    for name, millions in MILLIONS.items():
        leaves = jax.tree.leaves(abstract_params(recipes[name].step.model))
        assert round(sum(math.prod(leaf.shape) for leaf in leaves) / 1e6) == millions, name


def test_every_recipe_that_was_compiled_fits_the_hardware_that_it_names(recipes):
    lacking = set()
    for name, recipe in recipes.items():
        for place in estimate.hardware(recipe):
            if place.compiled is None:
                lacking.add(name)
                continue
            assert place.fits and place.compiled["chips"] == place.chips, f"{name} on {place.topology}"
            # What was counted in the compiled step, and the closed form that chip-hours stand on.
            tokens = recipe.step.batch_size * recipe.step.length
            assert place.compiled["flops"]["model_causal"] == pytest.approx(recipe.flops_per_token * tokens)
            if recipe.step.model.num_experts == 1:
                assert place.compiled["flops"]["counted_over_closed_form"] == pytest.approx(1, abs=0.01)
    assert lacking == NOT_COMPILED, "python -m benchmarks.compile_recipes --only NAME"


def test_a_result_is_of_one_step_alone(recipes, tmp_path, monkeypatch):
    recipe, topology = recipes["swallow_llama31_8b_v02"], "v5p:4x4x4"
    step = compiled.on(recipe.step, recipe.published, topology)
    monkeypatch.setattr(compiled, "RESULTS", tmp_path / "compiled.json")
    assert compiled.result(step, topology) is None
    write_json(compiled.RESULTS, {"steps": {compiled.key(step, topology): {"fits": True}}})
    assert compiled.result(step, topology) == {"fits": True}
    assert compiled.result(compiled.on(recipes["swallow_llama31_8b_v01"].step, recipe.published, topology), topology) is not None
    for changed in (
        dataclasses.replace(step, batch_size=512),
        dataclasses.replace(step, mesh={"fsdp": 32, "tensor": 2}),
        dataclasses.replace(step, model=dataclasses.replace(step.model, remat_policy="full")),
        dataclasses.replace(step, options=dataclasses.replace(step.options, microbatches=4)),
        dataclasses.replace(step, optimizer=dataclasses.replace(step.optimizer, moments="bfloat16")),
    ):
        assert compiled.result(changed, topology) is None
    assert compiled.result(step, "v6e:16x16") is None


def test_the_page_has_the_table_of_the_recipes(recipes):
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert tables.markdown(list(recipes.values()), estimate.MFU) in page, "run python -m benchmarks.readme_tables"


def test_listing_and_showing(recipes, capsys, monkeypatch):
    monkeypatch.setattr(catalogue, "catalogue", lambda: list(recipes.values()))
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = lines[1 : lines.index("")]
    assert [line.split()[0] for line in table if not line.startswith(" ")] == sorted(recipes)
    assert len(table) == sum(len(recipe.published.hardware) for recipe in recipes.values())
    assert max(map(len, table)) < 120
    assert "435B     2048 x 2048  1e-4 to 1e-5      v5p:4x4x4  38 of 94    63,053" in table[0]
    assert main(["recipes", "show", "aurora_m_15b"]) == 0
    shown = capsys.readouterr().out
    assert "aurora_m_cat, 13,712 steps, from step 90,000" in shown and "435B (103,712 steps x 2048 rows" in shown
    assert (
        "epochs         at most 4 of each source (MAX_EPOCHS)" in shown
        and "mixture: what matters is not known here; ours" in shown
    )
    assert "balance" not in shown
    assert main(["recipes", "show", "swallow_mixtral_8x7b"]) == 0
    assert "loss           z-loss 0, experts' balance loss 0.0" in capsys.readouterr().out
    assert main(["recipes", "show", "swallow_llama31_8b", "--gin"]) == 2
    assert "no recipe 'swallow_llama31_8b'; near names are swallow_llama31_" in capsys.readouterr().err
    assert main(["recipes", "show", "olmo2_7b_anneal", "--gin"]) == 0
    assert "PEAK_LEARNING_RATE = 6.15e-5" in capsys.readouterr().out


def test_showing_a_recipe_asks_for_no_accelerator():
    """Where JAX is told of one that is not there, or that a run beside it has: what JAX computes here is learning rates."""
    words = [sys.executable, "-m", "ja_llm.cli", "recipes", "show", "llmjp_v3_13b"]
    done = subprocess.run(words, env={**os.environ, "JAX_PLATFORMS": "cuda"}, capture_output=True, text=True)
    assert done.returncode == 0 and "learning rate  2e-4 to 2e-5" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"tokens": "250 billion", "hardware": {"v5p:4x4x4": {}}, **SAID}, "write a number and M, B or T"),
        ({"tokens": "250B", "hardware": {}, **SAID}, "name a topology"),
        (
            {"tokens": "250B", "hardware": {"v5p:4x4x4": {}}, **SAID, "known_from": "hearsay"},
            "Published.known_from is 'hearsay'; choose one of script, ",
        ),
        (
            {"tokens": "250B", "hardware": {"v5p:4x4x4": {}}, **SAID, "mixture_from": "x"},
            "Published.mixture_from is 'x'; choose one of script, notes, ",
        ),
    ],
)
def test_facts_that_can_not_be_read_are_refused(values, sentence):
    with pytest.raises(UsageError, match=sentence):
        Published(**values)


def test_tokens_agree_to_the_digits_that_are_published():
    facts = Published(tokens="251.7B", hardware={"v5p:4x4x4": {}}, **SAID)
    assert facts.agrees(30000 * 1024 * 8192) and not facts.agrees(29990 * 1024 * 8192)
    whole = Published(tokens="50B", hardware={"v5p:4x4x4": {}}, **SAID)
    assert whole.agrees(50_400_000_000) and not whole.agrees(50_600_000_000)

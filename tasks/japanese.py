"""The Japanese sets of Swallow's evaluation, in both profiles: prompts in our own words, shapes as published. Registrations only."""

import functools
from collections.abc import Callable
from typing import Any

from ja_llm.evaluation import answers, loaders_japanese, long_prompts, metrics, mt_bench, text_metrics
from ja_llm.evaluation.benchmarks import Prompt, chosen, code_task, generated
from ja_llm.evaluation.loaders_japanese import Splits
from ja_llm.evaluation.profiles import STRICT, SWALLOW, Profile
from ja_llm.evaluation.raw_files import RawFolder, Record
from ja_llm.evaluation.registry import GENERATE, JUDGED, SCORE, add_evaluation_task
from ja_llm.evaluation.shots import first

# Our own pairs: shots of the strict profile, where the test itself must not be drawn from.
TRANSLATION_SHOTS: list[Record] = [
    {"id": f"own {number}", "en": en, "ja": ja}
    for number, (en, ja) in enumerate(
        (
            ("The council will vote on the new bridge next week.", "市議会は来週、新しい橋について採決する。"),
            ("Rain is expected along the coast until Friday.", "沿岸部では金曜日まで雨が予想される。"),
            ("She said that the team had trained for three years.", "チームは3年間練習を重ねてきたと彼女は語った。"),
            ("Prices rose for the second month in a row.", "物価は2か月連続で上昇した。"),
        )
    )
]


def _add(profile: Profile, name: str, **fields: Any) -> None:
    """A task of a profile, with what all have in common."""
    add_evaluation_task(
        name + profile.suffix,
        lang="ja",
        better="higher",
        needs=("data",),
        begins_document=profile.begins_document,
        model_window=True,
        postprocess=metrics.raw_postprocess,
        **fields,
    )


def _instructed(instruction: str, question: Callable[[Record], str], answer: Callable[[Record], str]) -> Prompt:
    """llm-jp-eval's shape: a head, an instruction block, then for each record an input block and a response block."""
    head = f"以下に、課題の指示とその入力を示します。指示を満たす応答を書いてください。\n\n### 指示:\n{instruction}\n\n"
    return Prompt(lambda record: f"### 入力:\n{question(record)}\n\n### 応答:\n", answer, lambda record: head)


# --- questions with choices ---


def _labels(record: Record, labels: str) -> str:
    choices = ",".join(f"{label}.{choice}" for label, choice in zip(labels, record["choices"], strict=True))
    return f"質問:{record['question']}\n選択肢:{choices}"


def _add_choice(
    profile: Profile, name: str, labels: str, instruction: str, load: Callable[[RawFolder], Splits], shots: int, **fields: Any
) -> None:
    prompt = _instructed(instruction, lambda record: _labels(record, labels), lambda record: labels[record["label"]])
    common: dict[str, Any] = {
        "load": load,
        "prompt": prompt,
        "rule": first if name == "jmmlu" else profile.llm_jp_shots,
        "shots": shots,
    }
    if profile.choices_by_likelihood:
        candidates = functools.partial(_candidates, prompt, labels)
        fields |= {"kind": SCORE, "examples": functools.partial(chosen, candidates=candidates, **common), "headline": "accuracy"}
        fields["metric_fns"] = (metrics.ChoiceMetric("accuracy"),)
        fields["description"] += " by the likelihood of the labels."
    else:
        exact = metrics.text_metric(
            "exact_match", text_metrics.exact_match, answers.llmjp_answer, lambda target: [labels[target["label"]]]
        )
        fields |= {"kind": GENERATE, "examples": functools.partial(generated, **common), "headline": "exact_match"}
        label = metrics.PredictionMetric("answer_is_a_label", lambda t, text: float(answers.llmjp_answer(text) in tuple(labels)))
        fields |= {"max_new_tokens": 1, "metric_fns": (exact, label)}
        fields["description"] += " by one generated token."
    _add(profile, name, **fields)


def _candidates(prompt: Prompt, labels: str, record: Record) -> list[tuple[str, str]]:
    return [(prompt.query(record), label) for label in labels]


# --- questions with short answers ---


def _add_question(
    profile: Profile,
    name: str,
    instruction: str,
    question: Callable[[Record], str],
    golds: Callable[[Record], list[str]],
    load: Callable[[RawFolder], Splits],
    **fields: Any,
) -> None:
    prompt = _instructed(instruction, question, lambda record: golds(record)[0])
    measures = {
        "charf1_llmjp": text_metrics.charf1_llmjp,
        "character_f1": text_metrics.character_f1,
        "exact_match": text_metrics.exact_match,
    }
    _add(
        profile,
        name,
        kind=GENERATE,
        examples=functools.partial(generated, load=load, prompt=prompt, rule=profile.llm_jp_shots, shots=4),
        metric_fns=tuple(
            metrics.text_metric(
                key, measure, answers.llmjp_answer, lambda target: [text_metrics.nfkc(gold) for gold in golds(target)]
            )
            for key, measure in measures.items()
        ),
        headline="character_f1" if profile.all_golds else "charf1_llmjp",
        stop=("\n\n",),  # what follows a blank line is cut anyway
        description="Answers against the gold ones, "
        + ("F1 over characters, the best of all golds." if profile.all_golds else "by llm-jp-eval's similarity of sorted words."),
        **fields,
    )


def _all(record: Record) -> list[str]:
    return record["golds"]


def _first(record: Record) -> list[str]:
    return record["golds"][:1]


def _joined(record: Record) -> list[str]:
    return [",".join(record["golds"])]


# --- texts ---


def _bleu_ja(profile: Profile) -> metrics.PredictionMetric:
    cut = profile.bleu_words
    return metrics.bleu(cut) if cut == "ja-mecab" else metrics.bleu(segmenter=cut)


def _translation(pair: str, own_shots: bool, folder: RawFolder) -> Splits:
    asked, pool = loaders_japanese.wmt20(folder, pair)
    a, b = pair.split("-")
    return asked, [{"id": s["id"], "source": s[a], "reference": s[b]} for s in TRANSLATION_SHOTS] if own_shots else pool


def _add_translation(profile: Profile, pair: str) -> None:
    languages = {"en": "English", "ja": "Japanese"}
    a, b = (languages[code] for code in pair.split("-"))
    prompt = Prompt(lambda record: f"{a} phrase: {record['source']}\n{b} phrase:", lambda record: " " + record["reference"])
    into_japanese = pair == "en-ja"
    bleu = _bleu_ja(profile) if into_japanese else metrics.bleu()
    _add(
        profile,
        f"wmt20_{pair.replace('-', '_')}",
        kind=GENERATE,
        examples=functools.partial(
            generated,
            load=functools.partial(_translation, pair, not profile.shots_from_test),
            prompt=prompt,
            rule=profile.harness_ja_shots if profile.shots_from_test else first,
            shots=4,
        ),
        metric_fns=(_stripped(bleu), *([_stripped(metrics.bleu("char"))] if into_japanese else [])),
        headline=bleu.name,
        max_new_tokens=256,
        stop=("\n",),
        files=loaders_japanese.wmt20_files(pair),
        segmenters=(profile.bleu_words,) if into_japanese else (),
        source="WMT20 news test set (research use)",
        description=f"Corpus BLEU / 100 of news sentences translated {pair}, four shots.",
    )


def _stripped(metric: metrics.PredictionMetric) -> metrics.PredictionMetric:
    return metrics.PredictionMetric(metric.name, lambda t, p: metric.item(t, p.strip()), metric.aggregate, metric.signature)


def _whole_number(anywhere: bool, target: dict[str, Any], prediction: str) -> float:
    return float(answers.last_number(prediction, anywhere) == target["gold"])


def _register(profile: Profile) -> None:
    jglue = "yahoojapan/JGLUE v1.1.0 (CC BY-SA 4.0)"
    _add_choice(
        profile,
        "jcommonsenseqa",
        "01234",
        "質問に合う答えを選択肢から一つ選び、その番号だけを書いてください。",
        loaders_japanese.jcommonsenseqa,
        4,
        files=loaders_japanese.JCOMMONSENSEQA,
        source=jglue,
        description="Share of everyday questions with five choices that are answered rightly,",
    )
    _add_choice(
        profile,
        "jmmlu",
        "ABCD",
        "問題に合う答えを選択肢から一つ選び、その記号だけを書いてください。",
        loaders_japanese.jmmlu,
        5,
        files=loaders_japanese.JMMLU,
        source="nlp-waseda/JMMLU (CC BY-SA 4.0; Japanese and world history for research and evaluation only)",
        description="Share of school and expert questions with four choices that are answered rightly, over all subjects,",
    )
    plain = "質問に対する答えだけを、できるだけ短く書いてください。"
    _add_question(
        profile,
        "jemhopqa",
        plain,
        lambda record: f"質問:{record['question']}",
        _first,
        loaders_japanese.jemhopqa,
        max_new_tokens=15,
        files=loaders_japanese.JEMHOPQA,
        source="aiishii/JEMHopQA v1.0 (CC BY-SA 4.0)",
    )
    _add_question(
        profile,
        "niilc",
        plain,
        lambda record: f"質問:{record['question']}",
        _all if profile.all_golds else _joined,
        loaders_japanese.niilc,
        max_new_tokens=180,
        files=loaders_japanese.NIILC,
        source="mynlp/niilc-qa (CC BY-SA 4.0)",
    )
    _add_question(
        profile,
        "jsquad",
        "文章を読み、質問に対する答えを文章の中の言葉で書いてください。",
        lambda record: f"文章:{record['context']}\n質問:{record['question']}",
        _all if profile.all_golds else _first,
        loaders_japanese.jsquad,
        max_new_tokens=25,
        files=loaders_japanese.JSQUAD,
        source=jglue,
    )
    rouge = metrics.rouge2(profile.rouge_segmenter)
    summary = Prompt(
        lambda record: f"記事:{record['text']}\n要約:",
        lambda record: record["reference"],
        lambda record: "記事の要点を短い文章にまとめてください。\n\n",
    )
    _add(
        profile,
        "xlsum_ja",
        kind=GENERATE,
        examples=functools.partial(
            generated,
            load=loaders_japanese.xlsum,
            prompt=summary,
            rule=profile.harness_ja_shots,
            shots=1,
            keep_parts=True,
        ),
        long_prompt=long_prompts.shorten_articles(summary, profile.context_by_reference),
        metric_fns=(rouge,),
        headline="rouge2",
        max_new_tokens=256,
        stop=("\n",),
        files=loaders_japanese.XLSUM,
        segmenters=(profile.rouge_segmenter,),
        source="mkshing/xlsum_ja of csebuetnlp/xlsum (CC BY-NC-SA 4.0)",
        description=f"ROUGE-2 F of one-line summaries against the news site's own, units: {profile.rouge_segmenter}.",
    )
    worked = Prompt(
        lambda record: f"問題:{record['question']}\n順を追った答え:",
        lambda record: record["solution"] if "solution" in record else f"{record['gold']:g}",
    )
    _add(
        profile,
        "mgsm_ja",
        kind=GENERATE,
        examples=functools.partial(
            generated,
            load=loaders_japanese.mgsm,
            prompt=worked,
            rule=profile.harness_ja_shots,
            shots=4,
            keep_parts=True,
        ),
        long_prompt=long_prompts.drop_shots(worked),
        metric_fns=(metrics.PredictionMetric("accuracy", functools.partial(_whole_number, profile.number_anywhere)),),
        headline="accuracy",
        max_new_tokens=256,
        stop=("\n",),
        files=loaders_japanese.MGSM,
        source="juletxara/mgsm of google-research/url-nlp (CC BY-SA 4.0)",
        description="Share of word problems in Japanese whose worked solution ends in the right number.",
    )
    for pair in ("en-ja", "ja-en"):
        _add_translation(profile, pair)


def _register_code(profile: Profile, name: str, strip_prompt: bool) -> None:
    _add(
        profile,
        name,
        files=loaders_japanese.JHUMANEVAL,
        source="KuramitsuLab/jhuman-eval (MIT)",
        **code_task(loaders_japanese.jhumaneval, strip_prompt),
    )


def register(profile: Profile) -> None:
    """All Japanese sets in a profile."""
    _register(profile)
    _register_code(profile, "jhumaneval", strip_prompt=False)
    if profile.name == SWALLOW.name:
        _register_code(profile, "jhumaneval_stripped", strip_prompt=True)


for _profile in (SWALLOW, STRICT):
    register(_profile)

add_evaluation_task(
    mt_bench.NAME,
    kind=JUDGED,
    lang="ja",
    examples=mt_bench.examples,
    metric_fns=(),
    headline="score",
    better="higher",
    needs=("data", "judge"),
    files=mt_bench.FILES,
    source="Nejumi's mtbench_ja v4 (ask its authors)",
    description=mt_bench.ABOUT,
    model_window=True,
)

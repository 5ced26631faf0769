"""The English sets of Swallow's evaluation, in both profiles: prompts in our own words, shapes as published. Registrations only."""

import functools
from collections.abc import Callable
from typing import Any

from ja_llm.evaluation import answers, loaders_english, metrics, text_metrics
from ja_llm.evaluation.benchmarks import Prompt, chosen, code_task, generated
from ja_llm.evaluation.profiles import STRICT, SWALLOW, Profile
from ja_llm.evaluation.raw_files import Record
from ja_llm.evaluation.registry import BOTH, GENERATE, SCORE, add_evaluation_task
from ja_llm.evaluation.shots import ShotRule, first, first_of_subject, no_shots

NO_ANSWER = "unanswerable"


def _add(profile: Profile, name: str, **fields: Any) -> None:
    """A task of a profile, with what all have in common."""
    add_evaluation_task(
        name + profile.suffix,
        lang="en",
        better="higher",
        needs=("data",),
        begins_document=profile.begins_document,
        model_window=True,
        postprocess=metrics.raw_postprocess,
        **fields,
    )


# --- choices by likelihood ---


def _add_choice(
    profile: Profile,
    name: str,
    prompt: Prompt,
    candidates: Callable[[Record], list[tuple[str, str]]],
    *,
    load: Callable,
    rule: ShotRule,
    shots: int = 4,
    **fields: Any,
) -> None:
    _add(
        profile,
        name,
        kind=SCORE,
        examples=functools.partial(chosen, load=load, prompt=prompt, rule=rule, shots=shots, candidates=candidates),
        metric_fns=(
            metrics.ChoiceMetric("accuracy"),
            metrics.ChoiceMetric("accuracy_per_character", "characters"),
            metrics.ChoiceMetric("accuracy_per_byte", "bytes"),
        ),
        headline="accuracy",
        **fields,
    )


def _continued(prompt: Prompt, record: Record) -> list[tuple[str, str]]:
    """Each choice's text behind the question and a space."""
    return [(prompt.query(record), f" {choice}") for choice in record["choices"]]


def _letters(prompt: Prompt, record: Record) -> list[tuple[str, str]]:
    return [(prompt.query(record), f" {letter}") for letter in "ABCD"]


def _lettered(record: Record) -> str:
    choices = "\n".join(f"{letter}. {choice}" for letter, choice in zip("ABCD", record["choices"], strict=True))
    return f"{record['question']}\n{choices}\nAnswer:"


def _gap_filled(record: Record) -> list[tuple[str, str]]:
    """Partial scoring: the option is context, and what follows the gap is scored."""
    return [(record["before"] + option, f" {record['after']}") for option in record["choices"]]


def _register_choices(profile: Profile) -> None:
    stem = Prompt(lambda record: record["question"], lambda record: f" {record['choices'][record['label']]}")
    _add_choice(
        profile,
        "openbookqa",
        stem,
        functools.partial(_continued, stem),
        load=loaders_english.openbookqa,
        rule=profile.harness_en_shots,
        files=loaders_english.OPENBOOKQA,
        source="AI2 OpenBookQA (Apache-2.0)",
        description="Share of elementary science questions whose right ending of four the model finds likeliest.",
    )
    context = Prompt(lambda record: record["context"], stem.answer)
    _add_choice(
        profile,
        "hellaswag",
        context,
        functools.partial(_continued, context),
        load=loaders_english.hellaswag,
        rule=profile.harness_en_shots,
        files=loaders_english.HELLASWAG,
        source="HellaSwag (MIT)",
        description="Share of everyday scenes whose right continuation of four the model finds likeliest.",
    )
    sentence = Prompt(lambda record: record["before"] + record["choices"][record["label"]], lambda record: f" {record['after']}")
    _add_choice(
        profile,
        "xwino_en",
        sentence,
        _gap_filled,
        load=loaders_english.xwino,
        rule=profile.harness_en_shots,
        files=loaders_english.XWINO,
        source="Muennighoff/xwinograd (CC BY 4.0)",
        description="Share of sentences whose end the model finds likelier after the right of two nouns in the gap.",
    )
    lettered = Prompt(
        _lettered,
        lambda record: f" {'ABCD'[record['label']]}",
        lambda record: f"Below are multiple-choice questions on {record['subject'].replace('_', ' ')}, each with its answer.\n\n",
    )
    _add_choice(
        profile,
        "mmlu",
        lettered,
        functools.partial(_letters, lettered),
        load=loaders_english.mmlu,
        rule=first_of_subject,
        shots=5,
        files=loaders_english.MMLU,
        source="hendrycks/test (MIT)",
        description="Share of school and expert questions whose right letter of four is likeliest, over all questions of 57 subjects.",
    )


# --- generated answers ---


def _add_generated(
    profile: Profile, name: str, prompt: Prompt, *, load: Callable, rule: ShotRule, shots: int, **fields: Any
) -> None:
    examples = functools.partial(generated, load=load, prompt=prompt, rule=rule, shots=shots)
    _add(profile, name, **{"kind": GENERATE, "examples": examples, **fields})


def _exact(answer: Callable[[str], str], golds: Callable[[dict[str, Any]], list[str]]) -> metrics.PredictionMetric:
    return metrics.text_metric("exact_match", text_metrics.exact_match, answer, golds)


def _register_generated(profile: Profile) -> None:
    mark = "?" if profile.second_question_mark else ""
    # The harness's shapes: a line end behind BIG-bench Hard's invitation, TriviaQA's first alias in the shots.
    mark_end, answer_begins = ("\n", "") if profile.harness_shapes else ("", " ")
    _add_generated(
        profile,
        "triviaqa",
        Prompt(
            lambda record: f"Question: {record['question']}{mark}\nAnswer:",
            lambda record: f" {record['golds'][0] if profile.harness_shapes else record['answer']}",
        ),
        load=loaders_english.triviaqa,
        rule=profile.harness_en_shots,
        shots=4,
        metric_fns=(_exact(answers.quiz_answer, lambda target: [answers.quiz_answer(gold) for gold in target["golds"]]),),
        headline="exact_match",
        max_new_tokens=256,
        stop=("\n", ".", ","),
        files=loaders_english.TRIVIAQA,
        source="TriviaQA rc (code Apache-2.0; the questions' licence is unknown)",
        description="Share of quiz questions answered with one of the accepted spellings.",
    )
    _add_generated(
        profile,
        "gsm8k",
        Prompt(lambda record: f"Question: {record['question']}\nAnswer:", lambda record: f" {record['solution']}"),
        load=loaders_english.gsm8k,
        rule=profile.harness_en_shots,
        shots=4,
        metric_fns=(_exact(answers.marked_number, lambda target: [answers.plain_number(target["gold"])]),),
        headline="exact_match",
        max_new_tokens=256,
        stop=("Question:", "</s>", "<|im_end|>"),
        files=loaders_english.GSM8K,
        source="openai/grade-school-math (MIT)",
        description="Share of word problems whose worked solution ends in the right number behind its mark.",
    )
    _add_generated(
        profile,
        "math",
        Prompt(
            lambda record: f"Problem:\n{record['problem']}\n\nSolution:",
            lambda record: f" {record.get('solution') or record['gold']}",
        ),
        load=loaders_english.math,
        rule=first,
        shots=4,
        metric_fns=(
            _exact(
                lambda text: answers.plain_mathematics(answers.boxed(text)),
                lambda target: [answers.plain_mathematics(target["gold"])],
            ),
        ),
        headline="exact_match",
        max_new_tokens=1024,
        stop=("Problem:",),
        files=loaders_english.MATH,
        source="MATH-500 of hendrycks/math (MIT)",
        description="Share of competition problems whose boxed answer is the gold one, compared as text.",
    )
    _add_generated(
        profile,
        "bbh",
        Prompt(
            lambda record: f"Q: {record['question']}\nA: Let's think step by step.{mark_end}",
            lambda record: f"{answer_begins}{record['gold']}",
            lambda record: f"{record['worked']}\n\n",  # the set's own file, with its three worked examples
        ),
        load=loaders_english.bbh,
        rule=no_shots,
        shots=0,
        metric_fns=(_exact(answers.phrase_answer, lambda target: [target["gold"]]),),
        headline="exact_match",
        max_new_tokens=1024,
        stop=("</s>", "Q", "\n\n"),
        files=loaders_english.BBH,
        source="suzgunmirac/BIG-Bench-Hard (MIT)",
        description="Share of hard reasoning questions answered rightly after a worked solution, over all questions of 27 tasks.",
    )


# --- SQuAD 2.0: an answer, and how likely it is that there is none ---


def _squad_answer(word_is_no_answer: bool, prediction: str) -> str:
    text = prediction.strip()
    return "" if word_is_no_answer and text.lower().rstrip(".") == NO_ANSWER else text


def _squad(profile: Profile, measure: Callable[[str, list[str]], float]) -> Callable[[dict[str, Any], str], float]:
    return lambda target, prediction: measure(_squad_answer(profile.word_is_no_answer, prediction), target["golds"])


def _with_word(sources: Any, limit: int | None, **settings: Any) -> list[dict[str, Any]]:
    """The examples, with the word for "no answer" as what is scored beside the generated text."""
    return [{**example, "targets": f" {NO_ANSWER}"} for example in generated(sources, limit, **settings)]


def _register_squad(profile: Profile) -> None:
    prompt = Prompt(
        lambda r: f"Title: {r['title']}\n\nPassage: {r['context']}\n\nQuestion: {r['question']}\n\nAnswer:",
        lambda r: f" {r['golds'][0] if r['golds'] else NO_ANSWER}",
    )
    answer = functools.partial(_squad_answer, profile.word_is_no_answer)
    _add(
        profile,
        "squad2",
        kind=BOTH,
        examples=functools.partial(
            _with_word, load=loaders_english.squad2, prompt=prompt, rule=profile.harness_en_shots, shots=4
        ),
        metric_fns=(
            metrics.PredictionMetric("exact", _squad(profile, text_metrics.squad_exact)),
            metrics.PredictionMetric("f1", _squad(profile, text_metrics.squad_f1)),
            metrics.BestThresholdMetric("best_exact", text_metrics.squad_exact, answer),
            metrics.BestThresholdMetric("best_f1", text_metrics.squad_f1, answer),
        ),
        headline="exact" if profile.word_is_no_answer else "best_exact",
        max_new_tokens=256,
        stop=("\n",),
        files=loaders_english.SQUAD2,
        source="SQuAD 2.0 (CC BY-SA 4.0)",
        description="Share of questions on a passage answered exactly, half of which have no answer"
        + ("." if profile.word_is_no_answer else "; best_exact, whose floor is that half."),
    )


def _register_code(profile: Profile, name: str, strip_prompt: bool) -> None:
    _add(
        profile,
        name,
        files=loaders_english.HUMANEVAL,
        source="openai/human-eval (MIT)",
        **code_task(loaders_english.humaneval, strip_prompt),
    )


def register(profile: Profile) -> None:
    """All English sets in a profile."""
    _register_choices(profile)
    _register_generated(profile)
    _register_squad(profile)
    _register_code(profile, "humaneval", strip_prompt=False)
    if profile.name == SWALLOW.name:
        _register_code(profile, "humaneval_stripped", strip_prompt=True)


for _profile in (SWALLOW, STRICT):
    register(_profile)

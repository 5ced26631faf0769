"""How a published set is asked: `SWALLOW` in the shapes of Swallow's evaluation (v202407 to v202411), traps included, `STRICT` without them.

Each field is one choice that is known to move scores; both profiles are measured by the same code.
"""

import dataclasses

from ja_llm.evaluation import shots
from ja_llm.evaluation.shots import ShotRule


@dataclasses.dataclass(frozen=True)
class Profile:
    """The choices.

    Attributes:
      name: of the profile.
      suffix: of its tasks' names.
      begins_document: whether BOS stands before a prompt.
      choices_by_likelihood: JCommonsenseQA and JMMLU by the likelihood of the labels; else by one generated token that has to be
        the label, where a tokenizer that begins with a space or a newline gets about 0.
      all_golds: an answer is compared with every gold; else with the first (JSQuAD), or all joined by commas as one (NIILC).
      rouge_segmenter: units of ROUGE-2; "model", the evaluated model's own pieces, compares no two tokenizers.
      bleu_words: cuts Japanese before BLEU: a segmenter of ours, or sacrebleu's "ja-mecab".
      word_is_no_answer: SQuAD 2.0's word for "no answer" counts as none; else it is a wrong answer as any other.
      second_question_mark: TriviaQA's prompt adds a question mark to the question's own.
      number_anywhere: see `answers.last_number`.
      llm_jp_shots: rule for JCommonsenseQA, JEMHopQA, NIILC and JSQuAD.
      harness_ja_shots: rule for XL-Sum, MGSM and WMT20.
      harness_en_shots: rule for the English sets but MMLU, BIG-bench Hard and MATH.
      shots_from_test: WMT20's shots are drawn from the test's own pairs; else they are ours.
    """

    name: str
    suffix: str
    begins_document: bool
    choices_by_likelihood: bool
    all_golds: bool
    rouge_segmenter: str
    bleu_words: str
    word_is_no_answer: bool
    second_question_mark: bool
    number_anywhere: bool
    llm_jp_shots: ShotRule
    harness_ja_shots: ShotRule
    harness_en_shots: ShotRule
    shots_from_test: bool


SWALLOW = Profile(
    name="swallow",
    suffix="",
    begins_document=False,
    choices_by_likelihood=False,
    all_golds=False,
    rouge_segmenter="model",
    bleu_words="nagisa",
    word_is_no_answer=False,
    second_question_mark=True,
    number_anywhere=True,
    llm_jp_shots=shots.llm_jp,
    harness_ja_shots=shots.harness_0_3,
    harness_en_shots=shots.harness_0_4,
    shots_from_test=True,
)

STRICT = Profile(
    name="strict",
    suffix="_strict",
    begins_document=True,
    choices_by_likelihood=True,
    all_golds=True,
    rouge_segmenter="mecab",
    bleu_words="ja-mecab",
    word_is_no_answer=True,
    second_question_mark=False,
    number_anywhere=False,
    llm_jp_shots=shots.plain,
    harness_ja_shots=shots.plain,
    harness_en_shots=shots.plain,
    shots_from_test=False,
)

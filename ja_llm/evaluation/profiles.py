"""How a published set is asked: `SWALLOW` in the shapes of Swallow's evaluation (v202407 to v202411), traps included, `STRICT` without them.

Each field is one choice that is known to move scores; both profiles are measured by the same code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from ja_llm.errors import UsageError
from ja_llm.evaluation import segmenters, shots
from ja_llm.evaluation.shots import ShotRule


@dataclasses.dataclass(frozen=True)
class Profile:
    """The choices.

    Attributes:
      name: of the profile.
      suffix: of its tasks' names.
      mark: of its suites' names, and at the end of `suffix`: "" for the profile as it is, or what was chosen otherwise.
      begins_document: whether BOS stands before a prompt.
      choices_by_likelihood: JCommonsenseQA and JMMLU by the likelihood of the labels; else by one generated token that has to be
        the label, where a tokenizer that begins with a space or a newline gets about 0.
      all_golds: an answer is compared with every gold; else with the first (JSQuAD), or all joined by commas as one (NIILC).
      rouge_segmenter: units of ROUGE-2; "model", the evaluated model's own pieces, compares no two tokenizers.
      bleu_words: cuts Japanese before BLEU: a segmenter of ours, or sacrebleu's "ja-mecab".
      word_is_no_answer: SQuAD 2.0's word for "no answer" counts as none; else it is a wrong answer as any other.
      second_question_mark: TriviaQA's prompt adds a question mark to the question's own.
      harness_shapes: as lm-evaluation-harness writes them: TriviaQA's shots show the first alias, a line end stands behind BIG-bench Hard's
        invitation to think.
      number_anywhere: see `answers.last_number`.
      context_by_reference: XL-Sum's articles may take what the reference's length leaves, see `long_prompts.shorten_articles`.
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
    harness_shapes: bool
    number_anywhere: bool
    context_by_reference: bool
    llm_jp_shots: ShotRule
    harness_ja_shots: ShotRule
    harness_en_shots: ShotRule
    shots_from_test: bool
    mark: str = ""

    def with_options(self, options: Mapping[str, str]) -> "Profile":
        """The profile with some choices made otherwise; its tasks and suites are named after them ("jsquad#begins_document.yes").

        Args:
          options: field -> "yes" or "no", a segmenter, or the name of a rule in `shots.py`.

        Raises:
          UsageError: there is no such choice or value.
        """
        if not options:
            return self
        chosen = {name: self._value(name, text) for name, text in options.items()}
        mark = "".join(f"#{name}.{text.replace('-', '_')}" for name, text in sorted(options.items()))
        return dataclasses.replace(self, suffix=self.suffix + mark, mark=mark, **chosen)

    def _value(self, name: str, text: str) -> Any:
        fields = [field.name for field in dataclasses.fields(self) if field.name not in ("name", "suffix", "mark")]
        if name not in fields:
            raise UsageError(f"{name}: a profile has no such choice; there are {', '.join(fields)}.")
        values: Mapping[str, Any] = {"yes": True, "no": False}
        if name == "rouge_segmenter":
            values = {segmenter: segmenter for segmenter in segmenters.SEGMENTERS}
        elif name == "bleu_words":
            values = {segmenter: segmenter for segmenter in ("nagisa", "mecab", "ja-mecab")}
        elif callable(getattr(self, name)):
            values = {
                rule.__name__: rule for rule in (shots.first, shots.plain, shots.llm_jp, shots.harness_0_3, shots.harness_0_4)
            }
        if text not in values:
            raise UsageError(f"{name}={text}: this choice takes {', '.join(values)}.")
        return values[text]


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
    harness_shapes=True,
    number_anywhere=True,
    context_by_reference=True,
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
    harness_shapes=False,
    number_anywhere=False,
    context_by_reference=False,
    llm_jp_shots=shots.plain,
    harness_ja_shots=shots.plain,
    harness_en_shots=shots.plain,
    shots_from_test=False,
)

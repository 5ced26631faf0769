"""What counts as the answer in a generated text: one rule a protocol."""

import re
import string

from ja_llm.evaluation.text_metrics import nfkc

INVALID = "[invalid]"  # lm-evaluation-harness's word for a text without an answer

_NUMBER_RUN = re.compile(r"-?[0-9.,]+")
_NUMBER = re.compile(r"-?[0-9][0-9.,]*")
_AFTER_MARK = re.compile(r"#### (-?[0-9.,]+)")
_ANSWER_PHRASE = re.compile(r"the answer is (.*)")
_DROP_PUNCTUATION = str.maketrans("", "", string.punctuation)


def llmjp_answer(text: str) -> str:
    """llm-jp-eval 1.3: up to the first blank line, stripped, NFKC."""
    return nfkc(text.split("\n\n")[0].strip())


def last_number(text: str, anywhere: bool = True) -> float | None:
    """The last number of a solution, if it is a whole one (Swallow's MGSM); else None.

    Args:
      text: the solution.
      anywhere: take the last run of digits, dots and commas for the number, even a lone dot, as the published protocol does;
        False: a number begins with a digit.
    """
    found = (_NUMBER_RUN if anywhere else _NUMBER).findall(text)
    try:
        value = float(found[-1].rstrip(".").replace(",", "")) if found else None
    except ValueError:
        return None
    return value if value is not None and value.is_integer() else None


def marked_number(text: str) -> str:
    """GSM8K's strict match: the first number behind "#### ", without commas, dollar signs and a final dot."""
    found = _AFTER_MARK.search(text)
    return plain_number(found.group(1)) if found else INVALID


def plain_number(text: str) -> str:
    """A number's text without what lm-evaluation-harness ignores in GSM8K: commas, dollar signs, a final dot."""
    return text.replace(",", "").replace("$", "").removesuffix(".").strip()


def phrase_answer(text: str) -> str:
    """BIG-bench Hard: what follows "the answer is " on its line, without the line's last character (a full stop)."""
    found = _ANSWER_PHRASE.search(text)
    return found.group(1)[:-1] if found and found.group(1) else INVALID


def quiz_answer(text: str) -> str:
    """TriviaQA: lower case, without ASCII punctuation and outer white space."""
    return text.strip().lower().translate(_DROP_PUNCTUATION)


def boxed(text: str) -> str:
    r"""MATH: the content of the last \boxed{...}, with nested braces, or what follows \boxed without them up to a dollar sign; INVALID without one."""
    start = text.rfind("\\boxed")
    if start < 0:
        return INVALID
    begin = start + len("\\boxed")
    if text[begin : begin + 1] != "{":
        bare = re.match(r"\s+([^$\s]+)", text[begin:])
        return bare[1] if bare else INVALID
    depth = 0
    for place in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[begin + 1 : place]
    return INVALID


def plain_mathematics(text: str) -> str:
    r"""A MATH answer without what changes nothing: white space, \left and \right, \dfrac for \frac, units, a final dot, dollar signs.

    Forms that the authors of MATH take for equal (arXiv:2103.03874, their published comparison) become one: \frac12, 1/2, 0.5 and \frac{1}{2};
    .5 and 0.5; \sqrt3 and \sqrt{3}. Still a comparison of texts: 0.25 and \frac{1}{4} differ. Minerva's own list of replacements
    (arXiv:2206.14858, appendix) is longer, and math-verify compares values.
    """
    text = re.sub(r"\\text(?:bf|rm)?\{([^{}]*)\}", r"\1", text)
    for old, new in (("\\left", ""), ("\\right", ""), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"), ("\\!", ""), ("\\,", "")):
        text = text.replace(old, new)
    text = (
        text.replace("\\$", "")
        .replace("$", "")
        .replace("^\\circ", "")
        .replace("^{\\circ}", "")
        .replace("\\%", "")
        .replace("%", "")
    )
    text = "".join(text.split()).removesuffix(".")
    text = text.replace(",", "") if re.fullmatch(r"-?\d{1,3}(,\d{3})+", text) else text
    text = re.sub(r"(^|[^\d])\.(?=\d)", r"\g<1>0.", text)
    text = re.sub(r"\\sqrt(\w)", r"\\sqrt{\1}", text)
    text = re.sub(r"\\frac(\w)", r"\\frac{\1}", text)
    text = re.sub(r"(\\frac\{[^{}]*\})(\w)", r"\1{\2}", text)
    text = re.sub(r"^(-?)(\d+)/(\d+)$", r"\1\\frac{\2}{\3}", text)
    return "\\frac{1}{2}" if text == "0.5" else text

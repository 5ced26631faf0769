"""Models that grade answers: an OpenAI-compatible endpoint or a local checkpoint behind one interface.

What a judge said is kept (`Replay`), so that a killed evaluation pays for no question twice and a finished one can be counted again
without any judge. A judge that fails is tried again; what stays without a rating is counted, never scored, and too much of it ends
the evaluation: a rate limit must not pass for a bad grade.
"""

import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import re
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import os_error_sentence, sha256_json

MAX_FAILED = 0.05  # share of the ratings that may be missing
_RATING = (re.compile(r"\[\[\s*(\d+(?:\.\d+)?)\s*\]\]"), re.compile(r"\[\s*(\d+(?:\.\d+)?)\s*\]"))
_BUSY = (408, 409, 425, 429, 500, 502, 503, 504)


class Unanswered(JaLlmError):
    """A judge gave no answer to one question."""


class Judge(Protocol):
    """Answers questions; `name` stands in the results, since grades of two judges are never comparable."""

    @property
    def name(self) -> str:
        """Stands in the results."""

    def ask(self, question: str) -> str:
        """The judge's answer.

        Raises:
          Unanswered: it gives none.
        """


@dataclasses.dataclass
class Endpoint:
    """A server that speaks OpenAI's chat completions.

    Attributes:
      url: up to and without "/chat/completions", such as http://127.0.0.1:8000/v1.
      model: its name there.
      key: sent as bearer token; "" for none.
      options: fields of the request beside model and messages, over temperature 0 and max_tokens 2048; None takes one out.
      timeout: seconds without an answer.
      attempts: tries in all.
      pause: seconds before the second try, doubled each time.
    """

    url: str
    model: str
    key: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    timeout: float = 120.0
    attempts: int = 5
    pause: float = 1.0

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"{self.url}: this is no address of a judge; give one such as https://host/v1.")

    @property
    def name(self) -> str:
        """The model, and what it is asked with where that is not the usual."""
        return f"{self.model} {json.dumps(self.options, sort_keys=True)}" if self.options else self.model

    def ask(self, question: str) -> str:
        """See `Judge`. Busy servers, cut connections and answers that are no JSON are tried again; refusals are not."""
        options = {"temperature": 0, "max_tokens": 2048, **self.options}
        body = {"model": self.model, "messages": [{"role": "user", "content": question}]}
        body |= {name: value for name, value in options.items() if value is not None}
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {self.key}"} if self.key else {})}
        address = self.url.rstrip("/") + "/chat/completions"
        reason = ""
        for attempt in range(self.attempts):
            if attempt:
                time.sleep(self.pause * 2 ** (attempt - 1))
            request = urllib.request.Request(address, json.dumps(body).encode(), headers)
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    text = json.load(response)["choices"][0]["message"]["content"]
                if isinstance(text, str) and text.strip():
                    return text
                reason = "an empty answer"
            except urllib.error.HTTPError as error:
                reason = f"HTTP {error.code} {error.reason}{_said(error)}"
                if error.code not in _BUSY:
                    break
            except (OSError, http.client.HTTPException) as error:
                reason = str(getattr(error, "reason", "") or error) or type(error).__name__
            except (ValueError, KeyError, IndexError, TypeError):
                reason = "an answer that is no chat completion"
        raise Unanswered(
            f"{address}: the judge {self.model} does not answer ({reason}); check the server and its limits, then run again."
        )


def _said(error: urllib.error.HTTPError) -> str:
    """What a server wrote beside its refusal, in one short line: which field or limit it is."""
    try:
        text = error.read(4096).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return ""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["error"]["message"]
    line = " ".join(str(text).split())
    return f": {line[:200]}" if line and not line.startswith("<") else ""


class LocalModel:
    """One of our checkpoints as a judge. Its name holds all that decides its answers: weights, tokenizer, form of the prompt, length.

    Args:
      loaded: `ja_llm.train.checkpoints.LoadedModel`.
      max_tokens: of an answer.
      chat: `conversation.Chat`; the plain question when None.
    """

    def __init__(self, loaded: Any, max_tokens: int = 512, chat: Any = None):
        from ja_llm.evaluation.conversation import QUESTION_ALONE
        from ja_llm.evaluation.generation import Generator
        from ja_llm.evaluation.requests import weights_fingerprint

        self._chat = chat or QUESTION_ALONE
        self._tokenizer, self._max_tokens = loaded.tokenizer, min(max_tokens, loaded.config.max_length // 2)
        ends = self._chat.ends(loaded)
        decides = [
            weights_fingerprint(loaded.params),
            loaded.tokenizer.fingerprint,
            repr(loaded.config),
            {**dataclasses.asdict(self._chat), "stop": list(self._chat.stop), "ends": ends},
            self._max_tokens,
        ]
        self.name = f"{loaded.directory.name}@{loaded.step} {sha256_json(decides)[:12]}"
        self._generator = Generator(loaded, 1, ends=ends)
        self._lock = threading.Lock()

    def ask(self, question: str) -> str:
        """See `Judge`. A question that does not fit loses its beginning."""
        ids = self._chat.ids(self._tokenizer, [question])
        with self._lock:
            (text,) = self._generator.continue_ids([ids], self._max_tokens, self._chat.stop, cut_prompts=True)
        if not text.strip():
            raise Unanswered(f"{self.name}: this judge answers nothing.")
        return text


class Replay:
    """A judge whose answers are kept in a JSONL file and asked for only once.

    Args:
      judge: is asked what the file does not have; None: nobody is.
      path: the file; made when there is something to keep.
      name: of the judge whose answers count, where there is no `judge`.
      worth: whether an answer is kept; nonsense is asked for again by the next call.

    Raises:
      JaLlmError: the file can't be read.
    """

    def __init__(self, judge: Judge | None, path: Path, name: str = "", worth: Callable[[str], bool] = bool):
        self.name, self.path, self._worth = judge.name if judge else name, path, worth
        self._judge, self._path, self._lock = judge, path, threading.Lock()
        self._known: dict[str, str] = {}
        try:
            lines = path.read_text(encoding="utf-8").split("\n") if path.exists() else []
        except (OSError, UnicodeDecodeError) as error:
            raise JaLlmError(f"{path}: these answers of a judge can't be read ({error}); remove the file to ask again.") from None
        for line in lines:
            try:
                value = json.loads(line)
                if worth(value["answer"]):
                    self._known[value["key"]] = value["answer"]
            except (ValueError, KeyError, TypeError):
                continue  # the line that a kill cut off
        self._torn = bool(lines and lines[-1])

    def ask(self, question: str) -> str:
        """See `Judge`."""
        key = hashlib.sha256(json.dumps([self.name, question], ensure_ascii=False).encode()).hexdigest()
        if key not in self._known:
            if self._judge is None:
                raise Unanswered(f"{self._path}: there is no kept answer to this question, and no judge to ask; name one.")
            answer = self._judge.ask(question)
            if not self._worth(answer):
                return answer
            with self._lock:
                self._keep(key, answer)
        return self._known[key]

    def _keep(self, key: str, answer: str) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with open(self._path, "a", encoding="utf-8") as file:
                line = json.dumps({"judge": self.name, "key": key, "answer": answer}, ensure_ascii=False)
                file.write(("\n" if self._torn else "") + line + "\n")
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise os_error_sentence(error, self._path) from error
        self._torn = False
        self._known[key] = answer


def rating(answer: str) -> float | None:
    """The grade from 1 to 10 in double brackets, or else in single ones; None where there is none."""
    for pattern in _RATING:
        if found := pattern.search(answer):
            value = float(found.group(1))
            return value if 1 <= value <= 10 else None
    return None


def graded(answer: str) -> bool:
    """Whether there is a grade in it."""
    return rating(answer) is not None


def ratings(judge: Judge, questions: Sequence[str], *, max_failed: float = MAX_FAILED, workers: int = 8) -> list[float | None]:
    """A judge's grade for each question, None where it gave none.

    Args:
      judge: see `Judge`.
      questions: whole prompts.
      max_failed: share of the grades that may be missing.
      workers: questions under way at once.

    Raises:
      JaLlmError: more than `max_failed` of the grades are missing; the sentence says why for one of them.
    """
    most = int(max_failed * len(questions))
    failures: list[str] = []

    def one(question: str) -> float | None:
        if len(failures) > most:
            return None  # the evaluation is lost; ask no more
        try:
            answer = judge.ask(question)
        except Unanswered as error:
            failures.append(str(error))
            return None
        value = rating(answer)
        if value is None:
            failures.append(f"its answer has no grade from [[1]] to [[10]]: {answer[:80]!r}.")
        return value

    with ThreadPoolExecutor(workers) as pool:
        found = list(pool.map(one, questions))
    if len(failures) > most:
        kept = (
            f" What it graded is kept in {judge.path}; the same command asks for the rest." if isinstance(judge, Replay) else ""
        )
        raise JaLlmError(
            f"{judge.name}: this judge failed on {len(failures)} of {len(questions)} answers, and {most} may be missing; for example: {failures[0]}{kept}"
        )
    return found

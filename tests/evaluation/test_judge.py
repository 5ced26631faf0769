"""Judges: an endpoint on this machine that fails in every way, answers kept and replayed, grades counted and averaged."""

import http.server
import json
import shutil
import threading
import types
from pathlib import Path

import numpy as np
import pytest

from ja_llm.cli import main
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import judge as judge_module
from ja_llm.evaluation import mt_bench
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.judge import Endpoint, LocalModel, Replay, Unanswered, graded, rating, ratings
from ja_llm.evaluation.raw_files import RawFolder
from ja_llm.evaluation.samples import read_samples
from ja_llm.evaluation.statistics import Statistic

RAW = Path(__file__).parent / "raw"


class Server:
    """An OpenAI-compatible endpoint; `replies` are used one after another: a status, bytes, "hang", or a text to answer."""

    def __init__(self, replies):
        outer, self.replies, self.asked, self.headers = self, list(replies), [], []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append((self.path, body))
                outer.headers.append(dict(self.headers))
                reply = outer.replies.pop(0) if len(outer.replies) > 1 else outer.replies[0]
                if reply == "hang":
                    outer.closing.wait(5)
                    return
                if isinstance(reply, int):
                    self.send_error(reply)
                    return
                if isinstance(reply, tuple):
                    self.send_response(reply[0])
                    self.end_headers()
                    self.wfile.write(reply[1])
                    return
                chat = {"choices": [{"message": {"role": "assistant", "content": reply}}]}
                data = reply if isinstance(reply, bytes) else json.dumps(chat).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *unused):
                pass

        self.closing = threading.Event()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


def endpoint(server, **kw):
    return Endpoint(server.url, "judge-1", **{"pause": 0.0, "timeout": 0.3, **kw})


def test_an_endpoint_is_asked_as_openais_is():
    with Server(["Grade: [[7]]"]) as server:
        assert endpoint(server, key="secret").ask("良いですか") == "Grade: [[7]]"
    ((path, body),) = server.asked
    assert path == "/v1/chat/completions" and body["messages"] == [{"role": "user", "content": "良いですか"}]
    assert (body["model"], body["temperature"]) == ("judge-1", 0)
    assert server.headers[0]["Authorization"] == "Bearer secret"


def test_what_is_asked_beside_the_question_can_be_set_and_is_part_of_the_judges_name():
    with Server(["[[3]]"]) as server:
        plain, other = (
            endpoint(server),
            endpoint(server, options={"temperature": 1, "max_tokens": None, "max_completion_tokens": 9}),
        )
        assert plain.ask("q") == other.ask("q")
    (_, first), (_, second) = server.asked
    assert (first["temperature"], first["max_tokens"], first["model"]) == (0, 2048, "judge-1") and plain.name == "judge-1"
    assert (second["temperature"], second["max_completion_tokens"]) == (1, 9) and "max_tokens" not in second
    assert second["model"] == "judge-1" and plain.name != other.name


@pytest.mark.parametrize("trouble", [503, 429, "hang", b"no json", b'{"choices": []}', b"[1]", ""])
def test_trouble_that_passes_is_tried_again(trouble):
    with Server([trouble, trouble, "[[3]]"]) as server:
        assert endpoint(server).ask("q") == "[[3]]" and len(server.asked) == 3
    with Server([trouble]) as server:
        with pytest.raises(Unanswered, match=r"the judge judge-1 does not answer \(.+\); check the server"):
            endpoint(server, attempts=2).ask("q")
        assert len(server.asked) == 2


def test_a_refusal_is_not_tried_again_and_no_server_is_a_sentence():
    with Server([401]) as server, pytest.raises(Unanswered, match="HTTP 401"):
        endpoint(server).ask("q")
    assert len(server.asked) == 1
    told = json.dumps({"error": {"message": "use max_completion_tokens"}}).encode()
    with Server([(400, told)]) as server, pytest.raises(Unanswered, match="HTTP 400 .*: use max_completion_tokens"):
        endpoint(server).ask("q")
    with pytest.raises(Unanswered, match="refused"):
        Endpoint(server.url, "gone", pause=0.0, attempts=2).ask("q")
    with pytest.raises(UsageError, match="no address of a judge"):
        Endpoint("judge.example", "x")


@pytest.mark.parametrize(
    "answer, grade",
    [
        ("Good. Grade: [[8]]", 8),
        ("[[ 7.5 ]] and [[2]]", 7.5),
        ("grade [6]", 6),
        ("a[1] is wrong: [[9]]", 9),
        ("[[11]]", None),
        ("[[0]]", None),
        ("I can't grade this.", None),
        ("", None),
        ("8/10", None),
    ],
)
def test_grades(answer, grade):
    assert rating(answer) == grade


class Canned:
    name = "canned"

    def __init__(self, answer):
        self.answer, self.asked = answer, []

    def ask(self, question):
        self.asked.append(question)
        found = self.answer(question)
        if found is None:
            raise Unanswered("it is silent.")
        return found


def test_missing_grades_are_counted_and_too_many_end_the_work():
    def answer(question):
        number = int(question)
        return None if number == 3 else "nonsense" if number == 7 else f"[[{1 + number % 10}]]"

    questions = [str(n) for n in range(40)]
    found = ratings(Canned(answer), questions, max_failed=0.05)
    assert [n for n, grade in enumerate(found) if grade is None] == [3, 7]
    assert [g for g in found if g] == [1 + n % 10 for n in range(40) if n not in (3, 7)]
    with pytest.raises(JaLlmError, match=r"canned: this judge failed on 2 of 40 answers, and 1 may be missing; for example: "):
        ratings(Canned(answer), questions, max_failed=0.04, workers=1)
    silent = Canned(lambda question: None)
    with pytest.raises(JaLlmError, match="failed on 3 of 40"):
        ratings(silent, questions, max_failed=0.05, workers=1)
    assert len(silent.asked) == 3  # no more is asked when all is lost


def test_answers_are_kept_and_replayed(tmp_path):
    path = tmp_path / "deep/judge.jsonl"
    first = Canned(lambda question: question + " [[4]]")
    replay = Replay(first, path)
    assert [replay.ask(q) for q in ("a", "b", "a")] == ["a [[4]]", "b [[4]]", "a [[4]]"] and first.asked == ["a", "b"]
    with open(path, "a") as file:
        file.write('{"judge": "canned", "key": "cut off')  # a kill while writing
    again = Canned(lambda question: "new")
    replay = Replay(again, path)
    assert replay.ask("b") == "b [[4]]" and replay.ask("c") == "new" and again.asked == ["c"]
    alone = Replay(None, path, "canned")
    assert alone.ask("c") == "new"
    with pytest.raises(Unanswered, match="no kept answer"):
        alone.ask("d")
    other = Canned(lambda question: "another judge's")
    other.name = "other"
    assert Replay(other, path).ask("a") == "another judge's"  # nobody else's answers are taken
    path.write_bytes(b"\xff")
    with pytest.raises(JaLlmError, match="can't be read"):
        Replay(None, path)


def test_nonsense_is_asked_for_again_and_the_sentence_names_the_file(tmp_path):
    path = tmp_path / "judge.jsonl"
    first = Canned(lambda question: "[[4]]" if question == "a" else "nonsense")
    with pytest.raises(JaLlmError, match=r"no grade .*judge\.jsonl; the same command asks for the rest"):
        ratings(Replay(first, path, worth=graded), ["a", "b"], max_failed=0.0)
    assert path.read_text().count("\n") == 1 and "nonsense" not in path.read_text()
    again = Canned(lambda question: "[[5]]")
    assert ratings(Replay(again, path, worth=graded), ["a", "b"], max_failed=0.0) == [4, 5] and again.asked == ["b"]
    path.write_text(path.read_text().replace("[[5]]", "nonsense"))  # as an earlier version kept it
    again.asked.clear()
    assert ratings(Replay(again, path, worth=graded), ["a", "b"], max_failed=0.0) == [4, 5] and again.asked == ["b"]


class Writer:
    """Stands in for a model: answers say which draw they are, and which prompt they saw."""

    def __init__(self, *unused, **ends):
        pass

    def continue_ids(self, prompts, new_tokens, stop, *, sampling, seed, cut_prompts, numbers):
        texts = [bytes(ids[1:]).decode() for ids in prompts]
        assert all(text.endswith("アシスタント: ") for text in texts) and stop == ("\nユーザー:",)
        return [
            f" 答え{seed}/{n}/{sampling.temperature}/{text.count('ユーザー')} " for n, text in zip(numbers, texts, strict=True)
        ]


@pytest.fixture
def loaded(byte_tokenizer, monkeypatch):
    monkeypatch.setattr(mt_bench, "Generator", Writer)
    return types.SimpleNamespace(config=types.SimpleNamespace(max_length=512), tokenizer=byte_tokenizer, ledger={})


def grade(question):
    """Math is worth 2, first turns 5, second turns 9."""
    return "[[2]]" if "12個" in question else "[[9]]" if "second question" in question else "[[5]]"


def measured(loaded, out, judge, runs, **kw):
    questions = [example["meta"] for example in mt_bench.examples(Sources(data=RAW), None)]
    return mt_bench.measure(loaded, questions, out, {"task": "mt_bench_ja", "judge": judge.name}, judge, runs=runs, **kw)


def test_mt_bench(loaded, tmp_path, monkeypatch):
    judge = Canned(grade)
    result = measured(loaded, tmp_path, Replay(judge, tmp_path / "judge.jsonl"), 3)
    assert result["score"] == pytest.approx((2 * 2 + 7 * (5 + 9)) / 16 / 10)
    assert (result["turn_1"], result["turn_2"]) == (pytest.approx((2 + 7 * 5) / 80), pytest.approx((2 + 7 * 9) / 80))
    assert result["math"] == pytest.approx(0.2) and result["writing"] == pytest.approx(0.7)
    assert (result["n_valid"], result["n"], result["score_deviation_of_runs"]) == (48, 48, 0)
    for name in ("score", "turn_1", "turn_2"):
        assert result[f"{name}_low"] < result[name] < result[f"{name}_high"] and result[f"{name}_standard_error"] > 0
    assert result["interval"] == [result["score_low"], result["score_high"]] and result["japanese_share"] == 1.0
    assert Statistic(result["items"]["rows"], result["items"]["aggregate"]).value == pytest.approx(result["score"])
    samples = read_samples(tmp_path / "mt_bench_ja.samples.jsonl")
    drawn = {answer for s in samples for answer in s["answers"]}
    # Each run, question and turn has a draw of its own; what is written greedily is written and graded once.
    assert len(samples) == 24 and len(drawn) == 4 * 3 * 2 + 4 * 2
    temperatures = {s["category"]: s["answers"][0].split("/")[2] for s in samples}
    assert temperatures == {c: str(t) for c, t in mt_bench.TEMPERATURES.items()}
    assert all(s["answers"][0].endswith("/1") and s["answers"][1].endswith("/2") for s in samples)  # turn 2 sees turn 1
    with_reference = [q for q in judge.asked if "reference answer>" in q]
    assert len(with_reference) == 3 * 2 and len(judge.asked) == len(drawn)
    # The same call again: nothing is written or asked anew; nor for another judge, who grades the same answers.
    monkeypatch.setattr(mt_bench, "Generator", lambda *unused, **ends: types.SimpleNamespace())
    files = (tmp_path / "mt_bench_ja.json").read_bytes()
    assert measured(loaded, tmp_path, Replay(None, tmp_path / "judge.jsonl", "canned"), 3) == result
    assert (tmp_path / "mt_bench_ja.json").read_bytes() == files
    other = Canned(lambda question: "[[1]]")
    other.name = "other"
    assert measured(loaded, tmp_path, other, 3)["score"] == pytest.approx(0.1)


def test_answers_are_kept_batch_by_batch_and_shared_between_processes(loaded, tmp_path, monkeypatch):
    expected = measured(loaded, tmp_path / "whole", Canned(grade), 2, batch_size=2)
    written, converse = [], mt_bench._converse

    def stopping(*rest):
        if len(written) == 3:
            raise KeyboardInterrupt
        written.append(rest[3])
        return converse(*rest)

    monkeypatch.setattr(mt_bench, "_converse", stopping)
    with pytest.raises(KeyboardInterrupt):
        measured(loaded, tmp_path / "killed", Canned(grade), 2, batch_size=2)
    monkeypatch.setattr(mt_bench, "_converse", lambda *rest: written.append(rest[3]) or converse(*rest))
    assert measured(loaded, tmp_path / "killed", Canned(grade), 2, batch_size=2) == expected
    assert len(written) == 2 * (1 + 1) + 2  # batches of two: writing and roleplay, stem and humanities, and the greedy ones once
    second = threading.Thread(
        target=lambda: measured(loaded, tmp_path / "two", Canned(grade), 2, batch_size=2, process=(1, 2)), daemon=True
    )
    second.start()
    assert measured(loaded, tmp_path / "two", Canned(grade), 2, batch_size=2, process=(0, 2)) == expected
    second.join(5)


def test_failed_grades_of_mt_bench_are_left_out_and_counted(loaded, tmp_path):
    def some(question):
        return None if "答え1/" in question and "詩" in question else grade(question)

    result = measured(loaded, tmp_path, Canned(some), 2, max_failed=0.1)
    assert (result["n_valid"], result["n"]) == (30, 32)
    runs = [(2 * 2 + 7 * 14) / 16, (2 * 2 + 6 * 14) / 14]
    assert result["score"] == pytest.approx(np.mean(runs) / 10)
    assert result["score_deviation_of_runs"] == pytest.approx(np.std(runs, ddof=1) / 10)
    with pytest.raises(JaLlmError, match="failed on"):
        measured(loaded, tmp_path / "strict", Canned(some), 2, max_failed=0.0)
    with pytest.raises(UsageError, match="at least 1"):
        measured(loaded, tmp_path, Canned(grade), 0)


@pytest.mark.parametrize(
    "name, old, new, sentence",
    [
        ("question.jsonl", '"math"', '"maths"', "has the category 'maths' and 2 turns"),
        ("question.jsonl", ', "その詩を秋の夕方に書き直してください。"', "", "and 1 turns"),
        ("question.jsonl", '"turns"', '"text"', "has no 'turns'"),
        ("reference_answer.jsonl", '"choices": [', '"choices": {}, "other": [', "no list of objects|has no 'choices'"),
        (
            "reference_answer.jsonl",
            '"choices": [',
            '"choices": {"a": 1}, "other": [',
            '"choices" of question 21 is no list of objects',
        ),
        ("reference_answer.jsonl", '"question_id": 31', '"question_id": 32', "question 31 has no reference answer"),
    ],
)
def test_bad_questions_are_a_sentence(tmp_path, name, old, new, sentence):
    shutil.copytree(RAW / "mt_bench_ja", tmp_path / "mt_bench_ja")
    path = tmp_path / "mt_bench_ja" / name
    path.write_text(path.read_text().replace(old, new))
    sums = [
        f"{judge_module.hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(tmp_path)}\n"
        for p in tmp_path.rglob("*.jsonl")
    ]
    (tmp_path / "SHA256SUMS").write_text("".join(sums))
    with pytest.raises(JaLlmError, match=sentence):
        mt_bench.load(RawFolder(tmp_path))
    (tmp_path / "SHA256SUMS").unlink()
    shutil.copytree(RAW / "mt_bench_ja", tmp_path / "mt_bench_ja", dirs_exist_ok=True)
    with pytest.raises(JaLlmError, match="8 records instead of the original's 80"):
        mt_bench.load(RawFolder(tmp_path))


def test_a_local_model_is_a_judge_too(byte_tokenizer, monkeypatch):
    from ja_llm.evaluation import generation

    texts = ["[[6]]", " "]
    fake = types.SimpleNamespace(continue_ids=lambda prompts, *a, **k: [texts.pop(0)])
    monkeypatch.setattr(generation, "Generator", lambda *unused, **ends: fake)

    def model(weight):
        config, params = types.SimpleNamespace(max_length=64), {"w": np.array([weight])}
        return types.SimpleNamespace(
            config=config, tokenizer=byte_tokenizer, directory=Path("runs/ja"), step=7, params=params, ledger={}
        )

    local = LocalModel(model(1.0))
    assert local.name.startswith("ja@7 ") and local.ask("q") == "[[6]]"
    with pytest.raises(Unanswered, match="answers nothing"):
        local.ask("q")
    # Grades are kept by the judge's name: another one's must not pass for them.
    chat = mt_bench.Chat()
    names = [local.name, LocalModel(model(2.0)).name, LocalModel(model(1.0), 8).name, LocalModel(model(1.0), 512, chat).name]
    assert len(set(names)) == 4 and LocalModel(model(1.0)).name == local.name


@pytest.mark.parametrize(
    "flags, sentence",
    [
        ([], "mt_bench_ja: this task needs one judge"),
        (["--judge_url", "http://127.0.0.1:1/v1", "--judge_checkpoint", "x"], "needs one judge"),
        (["--judge_url", "http://127.0.0.1:1/v1"], "needs the name of its model"),
        (["--judge_url", "nowhere", "--judge_model", "j"], "no address of a judge"),
        (["--judge_url", "http://127.0.0.1:1/v1", "--judge_model", "j", "--judge_key_file", "none"], "judge's key can't be read"),
        (
            ["--judge_url", "http://127.0.0.1:1/v1", "--judge_model", "j", "--chat", "CHAT"],
            "no object of assistant, between, stop, user",
        ),
        (["--judge_url", "http://127.0.0.1:1/v1", "--judge_model", "j"], "this model directory does not exist"),
    ],
)
def test_wrong_calls_end_in_a_sentence_before_a_model_is_loaded(tmp_path, capsys, flags, sentence):
    (tmp_path / "chat.json").write_text('{"user": "no place for the text"}')
    flags = [str(tmp_path / "chat.json") if flag == "CHAT" else flag for flag in flags]
    command = [
        "eval",
        "--checkpoint",
        str(tmp_path / "none"),
        "--task",
        "mt_bench_ja",
        "--data",
        str(RAW),
        "--out",
        str(tmp_path),
    ]
    assert main([*command, *flags]) == 2
    assert sentence in capsys.readouterr().err


def test_the_share_of_a_process_is_written_i_of_n(capsys):
    with pytest.raises(SystemExit):
        main(["eval", "--checkpoint", "x", "--process", "half"])
    assert "write it as 0/2 and 1/2" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_a_sentence(tmp_path):
    from ja_llm.evaluation.run import writable_folder

    (tmp_path / "results").write_text("x")
    with pytest.raises(UsageError, match="results are a folder, and this is a file; give another name with --out DIR"):
        writable_folder(tmp_path / "results")
    assert writable_folder(tmp_path / "new") == tmp_path / "new"


def test_special_tokens_of_a_chat_form_are_made_and_end_answers(tmp_path):
    """<|im_start|> as text would be six tokens or so that no chat model has read; transformers makes one of it."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from ja_llm.vocab.hf_tokenizer import HFTokenizer

    raw = tokenizers.Tokenizer(tokenizers.models.BPE())
    raw.pre_tokenizer, raw.decoder = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False), tokenizers.decoders.ByteLevel()
    special = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]
    alphabet = tokenizers.pre_tokenizers.ByteLevel.alphabet()
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    raw.train_from_iterator(["海は何色ですか user assistant"] * 4, trainer)
    raw.save(str(tmp_path / "tokenizer.json"))
    own = HFTokenizer.from_file(tmp_path / "tokenizer.json", bos_id=0, eos_id=1)
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    form = {"user": "<|im_start|>user\n{text}<|im_end|>\n", "assistant": "<|im_start|>assistant\n", "between": "<|im_end|>\n"}
    (tmp_path / "chat.json").write_text(json.dumps({**form, "stop": ["<|im_end|>", "\nuser"]}))
    chat = mt_bench.read_chat(tmp_path / "chat.json")
    said = ["海は何色ですか", "青い", "空は"]
    ids = chat.ids(own, said)
    assert ids == [own.bos_id, *theirs.encode(chat.prompt(said), add_special_tokens=False)]
    assert (ids.count(2), ids.count(3)) == (4, 3)
    assert chat.ends(types.SimpleNamespace(tokenizer=own, ledger={})) == [3]
    ledger = {"generation": {"eos_token_id": [1, 2]}}
    assert chat.ends(types.SimpleNamespace(tokenizer=own, ledger=ledger)) == [1, 2, 3]
    # The plain form has none, and what a user says there makes none.
    assert mt_bench.Chat().ids(own, ["<|im_start|>"]) == [own.bos_id, *own.encode(mt_bench.Chat().prompt(["<|im_start|>"]))]

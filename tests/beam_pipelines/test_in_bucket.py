"""The job with its input and output in a bucket: a file system of Beam's that keeps objects in a dictionary, and workers whose disk is empty."""

import io
import json
import shutil
from pathlib import Path

import pytest
from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem

from beam_pipelines import corpus, flags, flex, mirror, workspace
from beam_pipelines.corpus import build_corpus
from beam_pipelines.workspace import WORK
from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError

STAGES = ("url_dedup", "minhash", "dedup", "lines", "annotate", "select", "host_filter", "host_cap")
BINDINGS = [
    "corpus.Corpus.languages = ('ja', 'en')",
    f"corpus.Corpus.stages = {['extract', 'language', *STAGES, 'split']!r}",
    "corpus.MinHash.bands = 3",
    "corpus.MinHash.rows = 4",
    "corpus.JapaneseFilter.min_letters = 200",
    "corpus.HostCap.max_documents = 2",
    "corpus.LineDedup.min_characters = 20",
    "corpus.Split.heldout_share = 0.3",
    "corpus.Corpus.shard_bytes = 4000",
]


class Shelf(FileSystem):
    """Objects by URL, as in a bucket: no folders, and an object stands when its writer is closed."""

    objects: dict[str, bytes] = {}

    @classmethod
    def scheme(cls):
        return "shelf"

    def join(self, basepath, *paths):
        return "/".join([basepath.rstrip("/"), *paths])

    def split(self, path):
        head, _, tail = path.rpartition("/")
        return head, tail

    def mkdirs(self, path):
        raise AssertionError("a bucket has no folders")

    def has_dirs(self):
        return False

    def _list(self, dir_or_prefix):
        for url, data in sorted(self.objects.items()):
            if url.startswith(dir_or_prefix):
                yield FileMetadata(url, len(data), 1.5)

    def create(self, path, mime_type="", compression_type=None):
        assert compression_type == "uncompressed", "gzip files must stay what they are"
        objects = self.objects

        class Writer(io.BytesIO):
            def close(self):
                objects[path] = self.getvalue()
                super().close()

        return Writer()

    def open(self, path, mime_type="", compression_type=None):
        assert compression_type == "uncompressed"
        return io.BytesIO(self.objects[path])

    def exists(self, path):
        return path in self.objects

    def size(self, path):
        return len(self.objects[path])

    def last_updated(self, path):
        return 1.5

    def checksum(self, path):
        return manifest.sha256_json(self.objects[path].hex())[:8]

    def metadata(self, path):
        return FileMetadata(path, len(self.objects[path]), 1.5)

    def delete(self, paths):
        for path in paths:
            if self.objects.pop(path, None) is None:
                raise BeamIOError("nothing there", {path: "absent"})

    def copy(self, source_file_names, destination_file_names):
        raise NotImplementedError

    rename = copy


@pytest.fixture(scope="module")
def archive(web, tmp_path_factory):
    """Two WARC files with a repeated address, near-duplicates, a shared line, a site with too many pages and a short text."""
    shared = "この段落はすべての頁の終わりに置かれている案内の文章です。"
    texts = [web.ja_text(i, 24) + "\n" + shared for i in range(6)]
    texts += [texts[0].replace("ました。", "ません。", 1), texts[1], web.ja_text(40, 2)]
    urls = [f"http://site{0 if i < 4 else i}.example/{i}" for i in range(len(texts))]
    pages = [
        {"url": url, "body": web.html(text), "date": f"2024-01-0{1 + i}T00:00:00Z"}
        for i, (url, text) in enumerate(zip(urls, texts, strict=True))
    ]
    folder = tmp_path_factory.mktemp("archive")
    web.write_warc(folder / "a.warc.gz", pages[:5])
    web.write_warc(folder / "b.warc.gz", pages[5:])
    return folder


@pytest.fixture(scope="module")
def here(archive, tmp_path_factory):
    """The same set, built on this machine's disk."""
    output = tmp_path_factory.mktemp("here") / "set"
    return output, build_corpus([str(archive / "*.warc.gz")], output, gin_bindings=BINDINGS)


UNITS: list[tuple[str, str]] = []  # stage and unit of all that workers did
RUN_UNIT = workspace.run_unit


def run_on_an_empty_disk(unit, this, function, arguments):
    """What a worker does, but on a disk on which no other has left anything."""
    UNITS.append((this.name, unit.name))
    work = next(parent for parent in this.folder.parents if parent.name == WORK)
    shutil.rmtree(work, ignore_errors=True)
    RUN_UNIT(unit, this, function, arguments)
    shutil.rmtree(work, ignore_errors=True)


@pytest.fixture(scope="module")
def built(archive):
    """(the bucket with the input and the set, its manifest, what the workers did)."""
    objects = {f"shelf://crawl/2024/{path.name}": path.read_bytes() for path in archive.iterdir()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Shelf, "objects", objects)
        patch.setattr(workspace, "run_unit", run_on_an_empty_disk)
        UNITS.clear()
        value = build()
        return objects, value, list(UNITS)


@pytest.fixture
def shelf(built, monkeypatch):
    """A bucket of its own: the input, and the set where the test asks for it."""
    objects = dict(built[0])
    monkeypatch.setattr(Shelf, "objects", objects)
    monkeypatch.setattr(workspace, "run_unit", run_on_an_empty_disk)
    UNITS.clear()
    return objects


@pytest.fixture
def input_only(shelf):
    """A bucket with the input alone."""
    for url in [url for url in shelf if not url.startswith("shelf://crawl/")]:
        del shelf[url]
    return shelf


def build(url="shelf://lab/corpus", bindings=(), **more):
    return build_corpus(["shelf://crawl/2024/*.warc.gz"], url, gin_bindings=[*BINDINGS, *bindings], **more)


def test_a_set_in_a_bucket_is_the_set_on_a_disk(built, here):
    objects, value, units = built
    output, wanted = here
    assert value["shards"] == wanted["shards"] and len(value["shards"]) > 2
    assert value["yields"] == wanted["yields"]
    assert {e["name"] for e in value["inputs"]} == {"a.warc.gz", "b.warc.gz"} and "checksum" in value["inputs"][0]
    assert json.loads(objects["shelf://lab/corpus/manifest.json"]) == value
    there = {
        url.removeprefix("shelf://lab/corpus/"): data for url, data in objects.items() if url.startswith("shelf://lab/corpus/")
    }
    files = {path.relative_to(output).as_posix(): path for path in output.rglob("*") if path.is_file()}
    assert {name for name in there if not name.startswith(WORK)} == {name for name in files if not name.startswith(WORK)}
    assert all(
        data == files[name].read_bytes()
        for name, data in there.items()
        if name.endswith((".tfrecord", ".index")) and name in files
    )
    assert {("extract", "a.warc.gz"), ("select", "b.warc.gz")} <= set(units)
    assert not list(Path("/tmp").glob("ja_llm-mirror-*/shelf*")), "the copies go with the run"


def test_what_stands_in_the_bucket_is_not_done_again(built, shelf):
    """Nor with another size of the shards, whose old ones go."""
    assert build() == built[1] and not UNITS
    second = build(bindings=["corpus.Corpus.shard_bytes = 10000000"])
    assert len(second["shards"]) < len(built[1]["shards"]) and not UNITS
    shards = {url.removeprefix("shelf://lab/corpus/") for url in shelf if url.endswith(".tfrecord") and f"/{WORK}/" not in url}
    assert shards == {shard["name"] for shard in second["shards"]}


def test_what_can_not_work_in_a_bucket_is_refused(input_only):
    with pytest.raises(UsageError, match=r"shelf://crawl/2024/.*: this input lies in the output folder \(shelf://crawl\)"):
        build("shelf://crawl")
    with pytest.raises(UsageError, match="copies are written on a machine's own disk"):
        build(formats=["parquet"])
    with pytest.raises(UsageError, match="--against: workers of a job in a bucket"):
        build_corpus(["shelf://crawl/2024/*"], "shelf://lab/x", gin_bindings=[*BINDINGS, "corpus.Dedup.against = ['/data/a']"])
    with pytest.raises(UsageError, match="^--input /data/a: Dataflow's workers do not see this machine's disk"):
        build_corpus("/data/a", "shelf://lab/x", beam_args=["--runner=DataflowRunner"])
    input_only["shelf://lab/other/notes.txt"] = b"mine"
    with pytest.raises(UsageError, match="^shelf://lab/other: this folder holds something"):
        build("shelf://lab/other")
    with pytest.raises(UsageError, match="^shelf://crawl/2025/.*no file matches"):
        build_corpus(["shelf://crawl/2025/*"], "shelf://lab/x")


def test_an_input_that_changes_is_noticed(input_only, monkeypatch):
    fetched = mirror.fetched

    def then_changed(path):
        found = fetched(path)
        if path.name == "a.warc.gz":
            input_only["shelf://crawl/2024/a.warc.gz"] += b"\0"
        return found

    monkeypatch.setattr(mirror, "fetched", then_changed)
    with pytest.raises(JaLlmError, match="^shelf://crawl/2024/a.warc.gz: this input changed"):
        build()
    assert "shelf://lab/corpus/manifest.json" not in input_only


def test_a_bucket_that_fails_is_a_sentence(input_only, monkeypatch):
    def broken(self, path, mime_type="", compression_type=None):
        raise RuntimeError("503 try later")

    monkeypatch.setattr(Shelf, "create", broken)
    with pytest.raises(JaLlmError, match=r"^shelf://lab/corpus/\.work/job\.json: the bucket can't be used \(503 try later\)"):
        build()


def test_a_dry_run_sizes_the_bucket(input_only):
    text = corpus.plan(["shelf://crawl/2024/*"], "shelf://lab/corpus", gin_bindings=BINDINGS)
    assert "would read 2 files" in text and "into shelf://lab/corpus (begins anew)" in text
    assert set(input_only) == {"shelf://crawl/2024/a.warc.gz", "shelf://crawl/2024/b.warc.gz"}


def test_the_flex_template_walks_the_chain_on_a_worker(shelf, built, capsys):
    options = ["--workers=1", *(f"--gin_bindings={binding}" for binding in BINDINGS)]
    argv = ["--input=shelf://crawl/2024/*.warc.gz", "--output=shelf://lab/corpus", *options]
    del shelf["shelf://lab/corpus/manifest.json"]
    assert flex.main(argv) == 0
    assert json.loads(shelf["shelf://lab/corpus/manifest.json"])["shards"] == built[1]["shards"]
    assert flex.main([*argv, "--no_such=1"]) == 2 and "--no_such=1: neither" in capsys.readouterr().err
    assert flex.main([*argv[:1], "--output=/data/x", "--stages_runner=DataflowRunner"]) == 1
    assert "name a place in a bucket" in capsys.readouterr().err


def test_the_stages_jobs_inherit_what_is_not_of_the_template_alone():
    from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, WorkerOptions

    own = ["--project=p", "--region=r", "--temp_location=gs://b/t", "--job_name=driver", "--template_location=gs://b/job"]
    own += ["--sdk_container_image=image:1", "--max_num_workers=1", "--runner=DataflowRunner"]
    found = flex.stage_options(own, "DataflowRunner", ["--max_num_workers=200"])
    options = PipelineOptions(found)
    cloud = options.view_as(GoogleCloudOptions)
    assert (cloud.project, cloud.region, cloud.temp_location) == ("p", "r", "gs://b/t")
    assert cloud.job_name is None and cloud.template_location is None
    workers = options.view_as(WorkerOptions)
    assert (workers.max_num_workers, workers.sdk_container_image) == (200, "image:1")
    with pytest.raises(UsageError, match="^p: write Beam's options as --name=value"):
        flex.stage_options(["--project", "p"], "DataflowRunner", [])


def test_the_template_s_file_names_the_job_s_flags():
    described = json.loads((Path(flex.__file__).parent / "flex_template.json").read_text())["parameters"]
    known = {action.dest: action for action in flex.flags()._actions}
    dests = {"gin_bindings": "bindings"}
    for parameter in described:
        action = known[dests.get(parameter["name"], parameter["name"])]
        assert action.required == (not parameter["isOptional"]) and f"--{parameter['name']}" in action.option_strings
    assert {p["name"] for p in described if not p["isOptional"]} == {a.dest for a in known.values() if a.required}


def test_places_and_urls():
    path = mirror.place("gs://bucket/a/b/", "t")
    assert mirror.url_of(path) == "gs://bucket/a/b" and mirror.url_of(path / "c.json") == "gs://bucket/a/b/c.json"
    assert mirror.url_of("/tmp/other/file") is None and mirror.fetched(Path("/nowhere")) == Path("/nowhere")
    assert flags.place("gs://bucket/x") == "gs://bucket/x"

"""The cache job on real seqio tasks (TensorFlow: the only test file of this room that imports it)."""

import shutil

import numpy as np
import pytest
import tokenizers

from beam_pipelines import cache as beam_job
from ja_llm import manifest
from ja_llm.cli import main
from ja_llm.data import cache as cache_module
from ja_llm.data import registry
from ja_llm.data.batches import BatchSource, trace_text
from ja_llm.data.cache import Workers, cache, format_cache
from ja_llm.data.store import TokenStore
from ja_llm.documents import document_id
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.vocab.base import load_tokenizer
from ja_llm.vocab.hf_tokenizer import HFTokenizer

MIXTURE = "swallow_ja90_en10"


@pytest.fixture(scope="module")
def parts(documents):
    return {
        ("ja", "train"): documents("ja", 40),
        ("ja", "heldout"): documents("ja", 5, seed=1),
        ("en", "train"): documents("en", 30),
        ("en", "heldout"): documents("en", 4, seed=1),
    }


@pytest.fixture(scope="module")
def root(tmp_path_factory, write_document_set, parts):
    return write_document_set(tmp_path_factory.mktemp("documents") / "set", parts)


def byte_level(*specials):
    """A byte-level BPE without merges; id 0 is a real token ("!"), the specials come after the 256 bytes."""
    alphabet = {c: i for i, c in enumerate(sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()))}
    model = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=alphabet, merges=[]))
    model.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = tokenizers.decoders.ByteLevel()
    model.add_special_tokens(list(specials))
    return HFTokenizer(model.to_str(), bos_id=256, eos_id=257)


@pytest.fixture(scope="module")
def vocab(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocab")
    byte_level("<s>", "</s>").save(folder)
    return folder


@pytest.fixture(scope="module")
def cached(tmp_path_factory, root, vocab):
    out = tmp_path_factory.mktemp("cache") / "tokens"
    return out, cache(MIXTURE, vocab, root, out)


def test_every_store_holds_its_documents_as_the_tokenizer_gives_them(cached, parts, vocab):
    out, value = cached
    tokenizer = load_tokenizer(vocab)
    assert [(m["task"], m["rate"], sorted(m["splits"])) for m in value["members"]] == [
        ("web_ja", 0.9, ["heldout", "train"]),
        ("web_en", 0.1, ["heldout", "train"]),
    ]
    for (lang, split), docs in parts.items():
        entry = next(m for m in value["members"] if m["task"] == f"web_{lang}")["splits"][split]
        store = TokenStore.open(out / entry["path"])
        assert store.fingerprint == entry["fingerprint"]
        held = {store.document_id(i): store.document(i).tolist() for i in range(store.num_documents)}
        assert held == {d.id: tokenizer.document_ids(d.text) for d in docs}
        sizes = {store.document_id(i): store.document_bytes(i) for i in range(store.num_documents)}
        assert sizes == {d.id: len(d.text.encode()) for d in docs} and sum(sizes.values()) == store.manifest["totals"]["bytes"]
        assert [entry[k] for k in ("documents", "tokens", "characters", "bytes", "empty_documents")] == [
            len(docs), store.num_tokens, sum(len(d.text) for d in docs), sum(len(d.text.encode()) for d in docs), 0,
        ]  # fmt: skip
        order = [store.document_id(i) for i in range(store.num_documents)]
        if len(docs) > 10:
            assert order != sorted(order) and order != [d.id for d in docs]
    assert load_tokenizer(out / "vocab").fingerprint == tokenizer.fingerprint
    assert "web_ja" in format_cache(value) and f"{value['members'][0]['splits']['train']['tokens']:,}" in format_cache(value)


def test_the_folder_alone_trains_and_traces(cached, parts, vocab, tmp_path):
    shutil.copytree(cached[0], tmp_path / "moved")
    source = BatchSource(tmp_path / "moved", 48, 10, seed=0)
    tokenizer = load_tokenizer(tmp_path / "moved" / "vocab")
    texts = {d.id: d.text for docs in parts.values() for d in docs}
    for row in range(10):
        inputs = source[3]["decoder_input_tokens"][row].tolist()
        for identity, start, stop in source.trace(3, row):
            stream = tokenizer.document_ids(texts[identity])[start:stop]
            assert inputs[: len(stream) - 1] == stream[:-1]
            del inputs[: len(stream) - 1]
            assert tokenizer.decode(stream).strip("\ufffd") in trace_text(texts[identity], tokenizer, start, stop)


def test_a_finished_cache_returns_at_once_and_equal_input_gives_equal_bytes(cached, root, vocab, tmp_path, monkeypatch):
    out, value = cached
    again = cache(MIXTURE, vocab, root, tmp_path / "again")
    assert again == value
    assert all((tmp_path / "again" / s["name"]).read_bytes() == (out / s["name"]).read_bytes() for s in value["shards"])
    monkeypatch.setattr(cache_module, "_tokenized", lambda *a: pytest.fail("tokenised again"))
    assert cache(MIXTURE, vocab, root, out) == value


def test_another_seed_gives_another_order_of_the_same_documents(cached, root, vocab, tmp_path):
    cache("web_en", vocab, root, tmp_path / "c", seed=1)
    stores = [TokenStore.open(p / "web_en" / "train") for p in (cached[0], tmp_path / "c")]
    orders = [[s.document_id(i) for i in range(s.num_documents)] for s in stores]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])
    assert stores[0].fingerprint != stores[1].fingerprint


class Killed(BaseException):
    pass


def test_a_killed_cache_goes_on_and_ends_in_the_same_fingerprint(cached, root, vocab, tmp_path, monkeypatch):
    out = tmp_path / "c"
    original, calls = cache_module._tokenized, []

    def dies(task, split, *rest):
        calls.append((task, split))
        for i, row in enumerate(original(task, split, *rest)):
            if task == "web_en" and i == 10:
                raise Killed
            yield row

    monkeypatch.setattr(cache_module, "_tokenized", dies)
    with pytest.raises(Killed):
        cache(MIXTURE, vocab, root, out)
    assert not (out / "manifest.json").exists()
    with pytest.raises(JaLlmError, match="unfinished"):
        BatchSource(out, 32, 8, seed=0)
    # What SIGKILL leaves in the middle of a store: its folder under a temporary name.
    (out / "web_en" / ".train.tmp" / "tokens").mkdir(parents=True)
    done, calls[:] = list(calls[:-1]), []

    monkeypatch.setattr(
        cache_module, "_tokenized", lambda task, split, *rest: calls.append((task, split)) or original(task, split, *rest)
    )
    assert cache(MIXTURE, vocab, root, out) == cached[1]
    assert not set(calls) & set(done) and calls[0] == ("web_en", "train")
    assert BatchSource(out, 32, 8, seed=0).fingerprint == BatchSource(cached[0], 32, 8, seed=0).fingerprint
    assert not list(out.rglob(".*.tmp"))


def files_of(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_beam_writes_the_same_bytes_with_any_number_of_workers(cached, root, vocab, tmp_path, monkeypatch):
    out, value = cached
    monkeypatch.setattr(beam_job, "PART_CHARACTERS", 300)
    monkeypatch.setattr(cache_module, "_tokenized", lambda *_: pytest.fail("by TensorFlow"))
    words = ["cache", "--task", MIXTURE, "--vocab", str(vocab), "--documents", str(root), "--out", str(tmp_path / "c")]
    assert main([*words, "--workers", "1"]) == 0
    assert manifest.read(tmp_path / "c", manifest.MIXTURE) == value
    assert files_of(tmp_path / "c") == files_of(out)
    cache("web_ja", vocab, root, tmp_path / "two", splits=("train",), workers=Workers(2))
    assert files_of(tmp_path / "two" / "web_ja" / "train") == files_of(out / "web_ja" / "train")
    assert not (tmp_path / "c" / ".work").exists() and not (tmp_path / "two" / ".work").exists()


def test_a_killed_beam_cache_goes_on_with_what_is_missing(cached, root, vocab, tmp_path, monkeypatch):
    out, run, documents, ran = tmp_path / "c", beam_job._run, beam_job.documents, []

    def dies(parts):
        yield next(documents(parts))
        raise Killed

    monkeypatch.setattr(beam_job, "PART_CHARACTERS", 300)
    monkeypatch.setattr(beam_job, "documents", dies)
    with pytest.raises(Killed):
        cache("web_ja", vocab, root, out, workers=Workers())
    monkeypatch.undo()
    monkeypatch.setattr(beam_job, "PART_CHARACTERS", 300)
    monkeypatch.setattr(beam_job, "_run", lambda function, items, *more: ran.append(items) or run(function, items, *more))
    (work,) = (out / ".work").iterdir()
    assert len(list(work.glob("part-*"))) > 4
    for name in ("shard-00001", "part-00002-*"):  # as if it had been killed before these were whole
        (whole,) = work.glob(name)
        whole.rename(work / f".{whole.name}.tmp")
    cache("web_ja", vocab, root, out, splits=("train",), workers=Workers())
    assert [[str(item).count(str(work)) for item in items] for items in ran] == [[1], [1]]
    assert "shard-00001" in str(ran[0]) and "part-00002" in str(ran[1])
    assert TokenStore.open(out / "web_ja" / "train").fingerprint == TokenStore.open(cached[0] / "web_ja" / "train").fingerprint


def test_beam_refuses_what_it_can_not_do_and_tells_what_is_damaged(
    vocab, root, tmp_path, write_document_set, documents, capsys, long_pages
):
    docs, out = documents("ja", 8), tmp_path / "c"
    with pytest.raises(UsageError, match="'long_ja' has preprocessors, which TensorFlow runs"):
        cache("long_ja", vocab, root, out, workers=Workers())
    with pytest.raises(UsageError, match="--workers -1"):
        cache("web_ja", vocab, root, out, workers=Workers(-1))
    words = ["cache", "--task", "web_ja", "--vocab", str(vocab), "--documents", str(root), "--out", str(out)]
    assert main([*words, "--seeed=3"]) == 2 and "--seeed=3: neither this command nor Beam" in capsys.readouterr().err
    assert not out.exists()
    apart = sorted(docs, key=lambda d: d.id)  # every other one goes into the other shard
    for twice in ([*docs, apart[0]], [apart[0], *apart]):
        with pytest.raises(JaLlmError, match=f"document {apart[0].id} comes twice"):
            again = write_document_set(tmp_path / "twice", {("ja", "train"): twice})
            cache("web_ja", vocab, again, tmp_path / f"twice{len(list(tmp_path.iterdir()))}", workers=Workers())
    damaged = write_document_set(tmp_path / "damaged", {("ja", "train"): docs})
    shard = sorted((damaged / "ja").iterdir())[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"?")
    with pytest.raises(JaLlmError, match=f"{shard.name}: record 3 is damaged"):
        cache("web_ja", vocab, damaged, out, workers=Workers())
    empty = type(docs[0])(document_id("test", "empty", "", ""), "", lang="ja")
    only = write_document_set(tmp_path / "empty", {("ja", "train"): [empty]})
    with pytest.raises(JaLlmError, match="dropped or empty"):
        cache("web_ja", vocab, only, tmp_path / "e", workers=Workers())
    assert not (out / "web_ja" / "train").exists() and not (tmp_path / "e" / "web_ja" / "train").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_folder_of_another_cache_is_refused(cached, root, vocab, tmp_path, finished, write_document_set, parts):
    out = tmp_path / "c"
    shutil.copytree(cached[0], out)
    if not finished:
        (out / "manifest.json").unlink()
    other = byte_level("<s>", "</s>", "<more>")
    with pytest.raises(UsageError, match="other vocabulary"):
        cache(MIXTURE, other, root, out)
    fewer = write_document_set(tmp_path / "fewer", {**parts, ("ja", "train"): parts["ja", "train"][1:]})
    with pytest.raises(UsageError, match="other documents"):
        cache(MIXTURE, vocab, fewer, out)
    with pytest.raises(UsageError, match="other seed"):
        cache(MIXTURE, vocab, root, out, seed=9)
    assert cache(MIXTURE, vocab, root, out)["config"] == cached[1]["config"]


def test_no_documents_of_a_language_is_a_sentence(vocab, tmp_path, write_document_set, parts):
    only_ja = write_document_set(tmp_path / "ja", {("ja", "train"): parts["ja", "train"], ("en", "train"): []})
    with pytest.raises(JaLlmError, match="no documents in 'en/train-.*task 'web_en'"):
        cache(MIXTURE, vocab, only_ja, tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(JaLlmError, match="unfinished"):
        cache(MIXTURE, vocab, tmp_path, tmp_path / "c")
    # A split other than train may be missing; then it is not in the cache.
    value = cache("web_ja", vocab, only_ja, tmp_path / "c")
    assert list(value["members"][0]["splits"]) == ["train"]


def test_empty_documents_are_counted_and_doubles_refused(vocab, tmp_path, write_document_set, documents):
    docs = documents("ja", 6)
    empty = type(docs[0])(document_id("test", "empty", "", ""), "", lang="ja")
    value = cache("web_ja", vocab, write_document_set(tmp_path / "a", {("ja", "train"): [*docs, empty]}), tmp_path / "ca")
    assert (value["totals"]["documents"], value["totals"]["empty_documents"]) == (6, 1)
    assert "1 documents without text" in format_cache(value)
    with pytest.raises(JaLlmError, match="comes twice"):
        cache("web_ja", vocab, write_document_set(tmp_path / "b", {("ja", "train"): [*docs, docs[0]]}), tmp_path / "cb")
    with pytest.raises(JaLlmError, match="dropped or empty"):
        cache("web_ja", vocab, write_document_set(tmp_path / "d", {("ja", "train"): [empty]}), tmp_path / "cd")
    assert not (tmp_path / "cd" / "web_ja" / "train").exists()


def test_a_damaged_record_is_a_sentence(vocab, tmp_path, write_document_set, documents):
    root = write_document_set(tmp_path / "a", {("ja", "train"): documents("ja", 20)})
    shard = sorted((root / "ja").iterdir())[0]
    data = bytearray(shard.read_bytes())
    data[200] ^= 1
    shard.write_bytes(data)
    with pytest.raises(JaLlmError, match="task 'web_ja' is damaged"):
        cache("web_ja", vocab, root, tmp_path / "c")
    assert not (tmp_path / "c" / "web_ja" / "train").exists()


@pytest.fixture
def two_sets(write_document_set, documents, root, tmp_path):
    """A mixture over the document sets "web" and "wiki", and the folder of each."""
    registry.task_names()
    registry.add_task("wiki_ja", lang="ja", documents="wiki")
    registry.add_mixture("web_and_wiki", {"web_ja": 0.5, "web_en": 0.25, "wiki_ja": 0.25})
    yield {"web": root, "wiki": write_document_set(tmp_path / "wiki", {("ja", "train"): documents("ja", 20, seed=7)})}
    registry.remove("web_and_wiki")
    registry.remove("wiki_ja")


def set_fingerprint(folder):
    return manifest.fingerprint(manifest.read(folder, manifest.DOCUMENTS))


def test_a_mixture_over_two_document_sets(two_sets, vocab, tmp_path, documents, cached):
    out = tmp_path / "c"
    value = cache("web_and_wiki", vocab, two_sets, out)
    prints = {name: set_fingerprint(folder) for name, folder in two_sets.items()}
    assert value["config"]["documents"] == prints and value["parents"] == sorted(prints.values())
    for task, name in (("web_ja", "web"), ("web_en", "web"), ("wiki_ja", "wiki")):
        assert manifest.read(out / task / "train", manifest.TOKENS)["parents"] == [prints[name]]
    wiki = TokenStore.open(out / "wiki_ja" / "train")
    assert {wiki.document_id(i) for i in range(wiki.num_documents)} == {d.id for d in documents("ja", 20, seed=7)}
    # The members over the first set are what a mixture without the second one has.
    assert TokenStore.open(out / "web_ja" / "train").fingerprint == TokenStore.open(cached[0] / "web_ja" / "train").fingerprint
    source, drawn = BatchSource(out, 48, 32, seed=0), {"web": 0, "wiki": 0}
    held = {d.id for d in documents("ja", 20, seed=7)}
    for step in range(8):
        weights = source[step]["decoder_loss_weights"].sum(axis=1)
        for row in range(32):
            identity, *_ = source.trace(step, row)[0]
            drawn["wiki" if identity in held else "web"] += weights[row]
    quarter = sum(drawn.values()) / 4
    assert abs(drawn["wiki"] - quarter) < 3 * 48, "to three rows, a quarter of the tokens is due to wiki_ja"
    words = ["cache", "--task", "web_and_wiki", "--vocab", str(vocab), "--out", str(tmp_path / "typed")]
    assert main([*words, "--documents", str(two_sets["web"]), "--documents", f"wiki={two_sets['wiki']}"]) == 0
    assert manifest.read(tmp_path / "typed", manifest.MIXTURE) == value
    # One folder for both names is one parent.
    both = cache("web_and_wiki", vocab, two_sets["web"], tmp_path / "one")
    assert both["parents"] == [prints["web"]] and both["config"]["documents"] == dict.fromkeys(("web", "wiki"), prints["web"])


def test_folders_of_document_sets_must_be_those_that_are_read(two_sets, vocab, tmp_path):
    out = tmp_path / "c"
    with pytest.raises(UsageError, match="'wiki_ja' reads the document set 'wiki'.*--documents wiki=DIR"):
        cache("web_and_wiki", vocab, {"web": two_sets["web"]}, out)
    with pytest.raises(UsageError, match="'web_ja' reads no document set 'wiki'"):
        cache("web_ja", vocab, two_sets, out)
    assert not out.exists()
    # Binding one task of a mixture may be given the mixture's folders; those that it does not read are not touched.
    tokenizer = load_tokenizer(vocab)
    both = {**two_sets, "wiki": tmp_path / "nowhere"}
    assert registry.bind("web_ja", tokenizer, both) is registry.bind("web_ja", tokenizer, two_sets["web"])
    with pytest.raises(JaLlmError, match="nowhere: this folder does not exist"):
        cache("web_and_wiki", vocab, both, out)


def test_a_store_outlives_the_change_of_another_document_set(
    two_sets, vocab, tmp_path, write_document_set, documents, monkeypatch
):
    out = tmp_path / "c"
    first = cache("web_and_wiki", vocab, two_sets, out)
    changed = {**two_sets, "wiki": write_document_set(tmp_path / "wiki2", {("ja", "train"): documents("ja", 21, seed=7)})}
    with pytest.raises(UsageError, match="other documents 'wiki' "):
        cache("web_and_wiki", vocab, changed, out)
    (out / "manifest.json").unlink()
    with pytest.raises(UsageError, match="wiki_ja/train: .*other documents 'wiki' "):
        cache("web_and_wiki", vocab, changed, out)
    shutil.rmtree(out / "wiki_ja")
    original, calls = cache_module._tokenized, []
    monkeypatch.setattr(
        cache_module, "_tokenized", lambda task, split, *rest: calls.append((task, split)) or original(task, split, *rest)
    )
    second = cache("web_and_wiki", vocab, changed, out)
    assert calls == [("wiki_ja", "train")]
    assert [m["splits"] for m in second["members"][:2]] == [m["splits"] for m in first["members"][:2]]
    assert second["members"][2] != first["members"][2]


def keep_long(dataset):
    import tensorflow as tf

    return dataset.filter(lambda e: tf.strings.length(e["text"], "UTF8_CHAR") > 50)


@pytest.fixture
def long_pages():
    """A task with a preprocessor of its own."""
    registry.add_task("long_ja", lang="ja", preprocessors=[keep_long])
    yield
    registry.remove("long_ja")


def test_a_task_runs_its_preprocessors_before_tokenisation(long_pages, root, vocab, tmp_path, parts):
    value = cache("long_ja", vocab, root, tmp_path / "c", splits=("train",))
    expected = [d for d in parts["ja", "train"] if len(d.text) > 50]
    assert value["totals"]["documents"] == len(expected) < 40
    assert value["totals"]["characters"] == sum(len(d.text) for d in expected)


def test_the_seqio_task_is_registered_under_a_name_of_its_own(root, vocab, parts, byte_tokenizer):
    seqio = registry.import_seqio()
    tokenizer = load_tokenizer(vocab)
    bound = registry.bind("web_ja", tokenizer, root)
    assert bound is seqio.TaskRegistry.get(bound.name) is registry.bind("web_ja", tokenizer, root)
    assert bound.name != registry.bind("web_ja", byte_tokenizer, root).name
    assert set(bound.splits) == {"train", "heldout"} and bound.num_input_examples("train") == 40
    example = next(bound.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    document = next(d for d in parts["ja", "train"] if d.id == example["id"].decode())
    assert example["targets"].tolist() == tokenizer.document_ids(document.text)
    assert example["targets"].dtype == np.int32
    with pytest.raises(UsageError, match="no shard of this document set fits 'ja/test-"):
        registry.bind("web_ja", tokenizer, root, splits=("test",))


def test_the_seqio_vocabulary_gives_the_tokenizers_ids_and_keeps_id_0(byte_tokenizer):
    import tensorflow as tf

    from ja_llm.data.seqio_vocabulary import SeqioVocabulary

    vocabulary = SeqioVocabulary(byte_tokenizer)
    text = "かな!e\x00漢字 and more あ"
    ids = byte_tokenizer.encode(text)
    assert ids.count(0) >= 3
    assert vocabulary.encode(text) == ids == vocabulary.encode_tf(tf.constant(text)).numpy().tolist()
    for ending in ("x\x00", "\x00", ""):
        encoded = next(tf.data.Dataset.from_tensors(ending).map(vocabulary.encode_tf).as_numpy_iterator())
        assert encoded.tolist() == byte_tokenizer.encode(ending)
        assert vocabulary.decode_tf(tf.constant(encoded)).numpy().decode() == ending
    assert vocabulary.encode_tf(tf.constant([text, "", "b"])).to_list() == [ids, [], byte_tokenizer.encode("b")]
    # ids that end in 0 and go on after EOS
    row = [*byte_tokenizer.encode("ok"), 0, 257, 0, 0]
    for decoded in (vocabulary.decode(row), vocabulary.decode_tf(tf.constant(row)).numpy().decode()):
        assert decoded == "ok\ufffd"
    assert vocabulary.decode_tf(tf.constant([row, row])).numpy().tolist() == ["ok\ufffd".encode()] * 2
    assert (vocabulary.vocab_size, vocabulary.bos_id, vocabulary.eos_id, vocabulary.unk_id, vocabulary.pad_id) == (
        258,
        256,
        257,
        None,
        257,
    )
    same, other = SeqioVocabulary(type(byte_tokenizer)()), SeqioVocabulary(byte_level("<s>", "</s>"))
    assert vocabulary == same and hash(vocabulary) == hash(same) and vocabulary != other


def test_manifests_name_their_lineage(cached, root):
    out, value = cached
    parent = manifest.fingerprint(manifest.read(root, manifest.DOCUMENTS))
    store = manifest.read(out / "web_ja" / "train", manifest.TOKENS)
    assert value["parents"] == store["parents"] == [parent]
    assert value["config"]["vocabulary"] == store["config"]["vocabulary"] == load_tokenizer(out / "vocab").fingerprint
    assert str(root) not in (out / "manifest.json").read_text() + (out / "web_ja" / "train" / "manifest.json").read_text()


def test_a_mixture_that_is_registered_with_seqio_is_cached_by_its_name(tmp_path, vocab, monkeypatch, capsys):
    """Its own source and preprocessors; rates as seqio draws by, nested ones too, become shares of tokens."""
    (tmp_path / "my_seqio_tasks.py").write_text(
        "import functools, seqio, tensorflow as tf\n"
        "features = {'targets': seqio.Feature(seqio.ByteVocabulary(), add_eos=True)}\n"
        "def texts(split, shuffle_files, seed=None, name=''):\n"
        "    return tf.data.Dataset.from_tensor_slices({'text': [f'{name} {split} {i} ' * 9 for i in range(20)]})\n"
        "for name in ('news', 'blogs', 'poems'):\n"
        "    seqio.TaskRegistry.add(name, seqio.FunctionDataSource(functools.partial(texts, name=name), splits=('train', 'validation')),\n"
        "        preprocessors=[functools.partial(seqio.preprocessors.rekey, key_map={'targets': 'text'}),\n"
        "        lambda data: data.map(lambda x: {'targets': tf.strings.upper(x['targets'])}), seqio.preprocessors.tokenize,\n"
        "        seqio.preprocessors.append_eos], output_features=features)\n"
        "seqio.MixtureRegistry.add('prose', [('news', 3), ('blogs', 1)])\n"
        "seqio.MixtureRegistry.add('reading', [('prose', 2.0), ('poems', 2.0)])\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    command = ["cache", "--task", "reading", "--module", "my_seqio_tasks", "--vocab", str(vocab), "--out", str(tmp_path / "c")]
    assert main([*command, "--documents", str(tmp_path)]) == 2
    assert "reads its own source" in capsys.readouterr().err
    assert main(command) == 0
    value = manifest.read(tmp_path / "c", manifest.MIXTURE)
    assert {m["task"]: m["rate"] for m in value["members"]} == {"blogs": 0.125, "news": 0.375, "poems": 0.5}
    store = TokenStore.open(tmp_path / "c/news/heldout")
    tokenizer = load_tokenizer(vocab)
    assert {tokenizer.decode(store.document(i)[1:-1].tolist()) for i in range(20)} == {
        f"NEWS VALIDATION {i} " * 9 for i in range(20)
    }
    assert store.document(0)[[0, -1]].tolist() == [tokenizer.bos_id, tokenizer.eos_id]
    source = BatchSource(tmp_path / "c", 32, 8, seed=0)
    tokens = dict.fromkeys(source.rates, 0.0)
    for step in range(8):
        weights = source[step]["decoder_loss_weights"].sum(axis=1)
        for (task, _), weight in zip(source.row_identity(step), weights, strict=True):
            tokens[task] += weight
    for task, share in {"blogs": 0.125, "news": 0.375, "poems": 0.5}.items():
        assert abs(tokens[task] - share * sum(tokens.values())) < 3 * 32
    assert main(command) == 0  # finished already
    assert main(["cache", "--task", "nothing", "--vocab", str(vocab), "--out", str(tmp_path / "d"), "--documents", "x"]) == 2


def test_a_split_alone_is_written_for_what_is_probed_only(root, vocab, cached, tmp_path, capsys):
    words = ["cache", "--task", "web_en", "--vocab", str(vocab), "--documents", str(root), "--out", str(tmp_path / "c")]
    assert main([*words, "--split", "heldout"]) == 0
    (member,) = manifest.read(tmp_path / "c", manifest.MIXTURE)["members"]
    assert list(member["splits"]) == ["heldout"] and not (tmp_path / "c/web_en/train").exists()
    assert TokenStore.open(tmp_path / "c/web_en/heldout").fingerprint == TokenStore.open(cached[0] / "web_en/heldout").fingerprint
    with pytest.raises(JaLlmError, match="there are no 'train' documents of web_en"):
        BatchSource(tmp_path / "c", 32, 8, seed=0)

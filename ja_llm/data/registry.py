"""Pretraining tasks and mixtures: registered by name without vocabulary or path, bound to both as real seqio tasks.

A task says which document set it reads by name, which of its shards, and what it does to them before tokenisation; a mixture
says in which shares of tokens tasks are learnt, whatever sets they read. The folder of each set is given when a task is bound
(`document_folders`). The registered tasks and mixtures are in `tasks/`. TensorFlow and seqio are imported by `bind` only, so
names can be listed and checked in no time.
"""

import contextlib
import dataclasses
import difflib
import fnmatch
import functools
import importlib
import json
import math
import os
import re
import sys
import tempfile
import types
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ja_llm import manifest
from ja_llm.documents import FIELDS
from ja_llm.errors import UsageError
from ja_llm.files import canonical_json
from ja_llm.vocab.base import Tokenizer

if TYPE_CHECKING:
    import seqio

SPLITS = ("train", "heldout")
PATTERN = "{lang}/{split}-*.tfrecord"
DOCUMENTS = "web"

# Where the document sets lie: one folder that serves every task, or a folder for each set name.
Documents = str | Path | Mapping[str, str | Path]

_START_UP_LOG = re.compile(
    r"[IWE]\d{4} \d\d|\d{4}-\d\d-\d\d .*: [IWE] |WARNING: All log messages before absl|To enable the following instr"
)
_BUILT_IN = ("tasks.pretraining", "tasks.mixtures")


@dataclasses.dataclass(frozen=True)
class TaskTemplate:
    """A task before it knows its vocabulary and path.

    Attributes:
      name: word characters, digits and `_`.
      lang: language of its documents, e.g. "ja".
      documents: name of the document set that it reads, e.g. "web", "wiki"; a name as a task's. Its folder is given by `bind`.
      file_pattern: shards that it reads, relative to the root of a document set; `{lang}` and `{split}` are filled in.
      preprocessors: functions tf.data.Dataset -> tf.data.Dataset on dicts of string scalars (the fields of a Document), run
        before tokenisation; they may change `text` and drop documents, and must keep `id`. Import TensorFlow inside them.
        Each is a function of a module, or `functools.partial` of one with JSON values, so that its name says what it is.
      version: raised when a preprocessor's effect changes, so that older caches are known as such.
    """

    name: str
    lang: str
    documents: str = DOCUMENTS
    file_pattern: str = PATTERN
    preprocessors: tuple[Callable[[Any], Any], ...] = ()
    version: int = 1

    def config(self) -> dict[str, Any]:
        """The values that decide what the task makes of a document set, as plain JSON values; they stand in every cache of it.

        Raises:
          UsageError: a preprocessor has no name or argument that would be the same next time.
        """
        return {
            "task": self.name,
            "lang": self.lang,
            "documents": self.documents,
            "file_pattern": self.file_pattern,
            "preprocessors": [_describe(p, self.name) for p in self.preprocessors],
            "version": self.version,
        }


def _describe(preprocessor: Any, task: str) -> Any:
    """A preprocessor by what is the same in every process: module and name, and for a partial its arguments (JSON values)."""
    if isinstance(preprocessor, functools.partial):
        given = {"args": list(preprocessor.args), "keywords": preprocessor.keywords}
        return {"function": _describe(preprocessor.func, task), **_plain(given, preprocessor, task)}
    name = getattr(preprocessor, "__qualname__", "")
    if not isinstance(preprocessor, types.FunctionType) or "<" in name:
        raise UsageError(
            f"task {task!r}: the preprocessor {name or type(preprocessor).__name__!r} has no name by which a cache could tell it "
            "from another; define it with def at the top of a module, and give it its values with functools.partial."
        )
    return f"{preprocessor.__module__}.{name}"


def _plain(given: Any, partial: "functools.partial[Any]", task: str) -> Any:
    """The arguments as they come back from JSON; what would come back as something else is refused."""

    def check(value: Any) -> None:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            value = list(value.values())
        if isinstance(value, list | tuple):
            for part in value:
                check(part)
        elif not (value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))):
            raise UsageError(
                f"task {task!r}: the preprocessor {getattr(partial.func, '__qualname__', partial.func)!r} is given {value!r}, but "
                "only JSON values (text, numbers, lists, dicts with text keys) can be noted in a cache; give it such values."
            )

    check(given)
    return json.loads(canonical_json(given))


_tasks: dict[str, TaskTemplate] = {}
_mixtures: dict[str, dict[str, float]] = {}
_bound_roots: dict[str, str] = {}


def add_task(
    name: str,
    *,
    lang: str,
    documents: str = DOCUMENTS,
    file_pattern: str = PATTERN,
    preprocessors: Sequence[Callable[[Any], Any]] = (),
    version: int = 1,
) -> TaskTemplate:
    """Register a task; see `TaskTemplate`.

    Raises:
      UsageError: the name is taken, or it or that of the document set can't be a name, or a preprocessor can't be described.
    """
    _check_new(name)
    _check_name(documents, "a document set")
    template = TaskTemplate(name, lang, documents, file_pattern, tuple(preprocessors), version)
    template.config()  # a preprocessor without a name is refused where it is written, not when the cache is made
    _tasks[name] = template
    return template


def add_mixture(name: str, rates: Mapping[str, float]) -> None:
    """Register a mixture of tasks.

    Args:
      name: word characters, digits and `_`.
      rates: for each task its share of the training tokens; above 0, 1 in all.

    Raises:
      UsageError: the name is taken, a task is not registered, or the rates are no shares.
    """
    _check_new(name)
    for task, rate in rates.items():
        if task not in _tasks:
            raise UsageError(f"mixture {name!r}: there is no task {task!r}{_near(task, _tasks)}.")
        if not (isinstance(rate, int | float) and math.isfinite(rate) and rate > 0):
            raise UsageError(f"mixture {name!r}: the rate of {task!r} is {rate!r}, but a share of tokens above 0 is needed.")
    if not math.isclose(sum(rates.values()), 1.0, abs_tol=1e-6):
        raise UsageError(f"mixture {name!r}: the rates add up to {sum(rates.values()):g}, but shares of tokens must add up to 1.")
    _mixtures[name] = {task: float(rate) for task, rate in rates.items()}


def remove(name: str) -> None:
    """Forget a task or mixture, if it is there."""
    _tasks.pop(name, None)
    _mixtures.pop(name, None)


def _check_name(name: str, what: str) -> None:
    if not name.isidentifier():
        raise UsageError(f"{name!r} can't be the name of {what}; use letters, digits and '_'.")


def _check_new(name: str) -> None:
    _check_name(name, "a task or mixture")
    if name in _tasks or name in _mixtures:
        raise UsageError(f"the name {name!r} is taken by another task or mixture; choose another one.")


@functools.cache
def _load_built_in() -> None:
    for module in _BUILT_IN:
        importlib.import_module(module)


def task_names() -> list[str]:
    """Names of all registered tasks, sorted."""
    _load_built_in()
    return sorted(_tasks)


def mixture_names() -> list[str]:
    """Names of all registered mixtures, sorted."""
    _load_built_in()
    return sorted(_mixtures)


def task(name: str) -> TaskTemplate:
    """The registered task `name`.

    Raises:
      UsageError: there is none; near names are listed.
    """
    _load_built_in()
    if name in _mixtures:
        raise UsageError(f"{name!r} is a mixture, and a single task is needed here; its tasks are {', '.join(_mixtures[name])}.")
    if name not in _tasks:
        raise UsageError(f"there is no task {name!r}{_near(name, _tasks)}.")
    return _tasks[name]


def resolve(name: str) -> dict[str, float]:
    """Tasks of a mixture with their shares of tokens; {name: 1.0} for a task.

    Raises:
      UsageError: neither a task nor a mixture has that name; near names are listed.
    """
    _load_built_in()
    if name in _mixtures:
        return dict(_mixtures[name])
    if name in _tasks:
        return {name: 1.0}
    raise UsageError(f"there is no task or mixture {name!r}{_near(name, {**_tasks, **_mixtures})}.")


def _near(name: str, known: Mapping[str, Any]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"; near names are {', '.join(near)}" if near else f"; there are {', '.join(sorted(known)) or 'none yet'}"


def document_folders(tasks: Iterable[str], documents: Documents) -> dict[str, Path]:
    """Folder of each document set that tasks read.

    Args:
      tasks: names of registered tasks.
      documents: one folder for all of them, or {set name: folder}; names that these tasks do not read are left out.

    Returns:
      {set name: folder}, in order of name.

    Raises:
      UsageError: there is no such task, or no folder for a set that it reads.
    """
    folders = {}
    for template in map(task, tasks):
        name = template.documents
        if not isinstance(documents, Mapping):
            folders[name] = Path(documents)
        elif name in documents:
            folders[name] = Path(documents[name])
        else:
            raise UsageError(
                f"task {template.name!r} reads the document set {name!r}, whose folder is not given; add --documents {name}=DIR."
            )
    return dict(sorted(folders.items()))


def check_all_read(name: str, documents: Documents) -> None:
    """Refuse folders for document sets that no task of a mixture reads: most likely a name is mistyped.

    Raises:
      UsageError: there is one, or `name` is not registered.
    """
    if not isinstance(documents, Mapping):
        return
    read = sorted({task(member).documents for member in resolve(name)})
    for other in sorted(documents.keys() - set(read)):
        raise UsageError(
            f"--documents {other}={documents[other]}: {name!r} reads no document set {other!r}, only {', '.join(read)}; leave it out, or give it the right name."
        )


def parse_documents(values: Sequence[str], name: str) -> Documents:
    """What `--documents` was given, for a mixture: DIR, or NAME=DIR several times; a DIR beside them serves all other sets.

    Args:
      values: each "DIR" or "NAME=DIR"; a folder with a "=" in its first part is written ./a=b.
      name: the registered task or mixture that will read them.

    Returns:
      The one folder, or {set name: folder}.

    Raises:
      UsageError: a name or the bare folder comes twice, a folder is empty, or the bare one serves nothing.
    """
    bare: list[str] = []
    folders: dict[str, str | Path] = {}
    for value in values:
        key, equals, folder = value.partition("=")
        if not equals or os.sep in key:
            bare.append(value)
        elif not folder or not key:
            raise UsageError(
                f"--documents {value}: give the name of a document set and its folder, as in --documents web=data/corpus."
            )
        elif key in folders:
            raise UsageError(f"--documents {value}: the document set {key!r} has the folder {folders[key]} already; give one.")
        else:
            folders[key] = folder
    if len(bare) > 1:
        raise UsageError(f"--documents {bare[1]}: only one folder can go without a name; write NAME={bare[1]}.")
    if not folders:
        return bare[0]
    if not bare:
        return folders
    others = {task(member).documents for member in resolve(name)} - folders.keys()
    if not others:
        raise UsageError(
            f"--documents {bare[0]}: each document set that {name!r} reads has a folder of its own; leave this one out."
        )
    return {**dict.fromkeys(sorted(others), bare[0]), **folders}


def shards(template: TaskTemplate, value: dict[str, Any], split: str) -> list[dict[str, Any]]:
    """The shards of a document set (its manifest) that the task reads for `split`, by name; files not in the manifest never count."""
    pattern = template.file_pattern.format(lang=template.lang, split=split)
    return sorted((s for s in value["shards"] if fnmatch.fnmatchcase(s["name"], pattern)), key=lambda s: s["name"])


def import_seqio() -> Any:
    """seqio, with TensorFlow kept to the CPU (JAX owns the accelerators)."""
    if "seqio" not in sys.modules:
        with _without_start_up_logs():
            import tensorflow as tf

            tf.config.set_visible_devices([], "GPU")
            import seqio  # noqa: F401
        # seqio maps with an argument that TensorFlow warns of at every task; it changes nothing.
        warnings.filterwarnings("ignore", message="The `deterministic` argument has no effect")
    return sys.modules["seqio"]


@contextlib.contextmanager
def _without_start_up_logs() -> Iterator[None]:
    """Keep what TensorFlow's C++ side logs while it is loaded (its build, CUDA it did not find) off the user's screen.

    It writes to the process's stderr before any log level counts, so the stream itself is caught; all other lines are passed on.
    """
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as caught:
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(kept, 2)
            os.close(kept)
            caught.seek(0)
            lines = caught.read().decode("utf-8", "replace").splitlines(keepends=True)
            sys.stderr.write("".join(line for line in lines if not _START_UP_LOG.match(line)))


def bind(name: str, tokenizer: Tokenizer, documents: Documents, splits: Sequence[str] = SPLITS) -> "seqio.Task":
    """Make the seqio task of `name` over its document set and a vocabulary, and register it with seqio.

    Its examples have `targets` (int32 [n], the document as BOS ... EOS by the tokenizer's own ids), `targets_pretokenized`
    (its text) and `id`. Its name is unique to the task, the vocabulary and the set, e.g. "web_ja.1f0c52ab93de.77a0b1c2d3e4".

    Args:
      name: a registered task.
      tokenizer: the vocabulary.
      documents: folder of its document set, or {set name: folder}, which may name the sets of other tasks too.
      splits: splits that it shall have.

    Raises:
      UsageError: no such task, or no folder for the set that it reads.
      JaLlmError: the document set is unfinished or damaged, or has no shard for a split.
    """
    template = task(name)
    root = document_folders([name], documents)[template.documents]
    value = manifest.read(root, manifest.DOCUMENTS)
    found = {split: shards(template, value, split) for split in splits}
    for split, entries in found.items():
        if not entries:
            pattern = template.file_pattern.format(lang=template.lang, split=split)
            raise UsageError(
                f"{root}: no shard of this document set fits {pattern!r}, which task {name!r} reads; build the corpus with that language and split."
            )
    unique = ".".join(
        [name, tokenizer.fingerprint[:12], manifest.fingerprint(value)[:12], *([] if tuple(splits) == SPLITS else splits)]
    )
    seqio = import_seqio()
    if _bound_roots.get(unique) != str(root.resolve()):
        # The same set can lie in another folder than last time.
        seqio.TaskRegistry.remove(unique)
        _add_to_seqio(
            unique,
            template,
            tokenizer,
            {split: [str(root / s["name"]) for s in entries] for split, entries in found.items()},
            found,
        )
        _bound_roots[unique] = str(root.resolve())
    return seqio.TaskRegistry.get(unique)


def _add_to_seqio(
    unique: str, template: TaskTemplate, tokenizer: Tokenizer, files: dict[str, list[str]], found: dict[str, list[dict[str, Any]]]
) -> None:
    import seqio
    import tensorflow as tf

    from ja_llm.data.seqio_vocabulary import DocumentTask, SeqioVocabulary

    required = ("id", "text")
    description = {
        field: tf.io.FixedLenFeature([], tf.string, default_value=None if field in required else "") for field in FIELDS
    }
    source = seqio.TFExampleDataSource(
        split_to_filepattern=files,
        feature_description=description,
        num_input_examples={split: sum(s.get("documents", 0) for s in entries) for split, entries in found.items()},
    )
    seqio.TaskRegistry.add(
        unique,
        source,
        output_features={"targets": seqio.Feature(SeqioVocabulary(tokenizer), add_eos=True, dtype=tf.int32)},
        preprocessors=[
            *template.preprocessors,
            functools.partial(seqio.preprocessors.rekey, key_map={"id": "id", "targets": "text"}),
            seqio.preprocessors.tokenize,
            _enclose,
        ],
        task_cls=DocumentTask,
    )


def _enclose(dataset: Any, output_features: Mapping[str, Any]) -> Any:
    """Put the vocabulary's own BOS in front of `targets` and its EOS behind."""
    import tensorflow as tf

    vocabulary = output_features["targets"].vocabulary

    def enclose(example: dict[str, Any]) -> dict[str, Any]:
        return {**example, "targets": tf.concat([[vocabulary.bos_id], example["targets"], [vocabulary.eos_id]], axis=0)}

    return dataset.map(enclose)

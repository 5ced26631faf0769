"""The configuration of the corpus job: its stages in their order, and every value that decides the content.

Presets are the files of `gin_configs/corpus/`. Beam workers get the bound values as plain dataclasses; gin stays in the
process that starts the job. How and where a job runs (runner, workers) is Beam's business and is not here. A part for
each topic stands in `settings/`; a new stage's settings are a module there and a field of `Corpus`.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gin

from beam_pipelines.settings.checks import Check
from beam_pipelines.settings.classify import Classify, TopShare
from beam_pipelines.settings.decontaminate import Decontaminate
from beam_pipelines.settings.dedup import Dedup, LineDedup, MinHash
from beam_pipelines.settings.extraction import Extraction
from beam_pipelines.settings.filters import EnglishFilter, JapaneseFilter, Statistics
from beam_pipelines.settings.host_cap import HostCap
from beam_pipelines.settings.hosts import Expressions, HostFilter
from beam_pipelines.settings.inputs import Inputs
from beam_pipelines.settings.language import LanguageId
from beam_pipelines.settings.modify import Modify
from beam_pipelines.settings.split import Split
from ja_llm.errors import UsageError
from ja_llm.files import canonical_json

SWALLOW_V2 = ("extract", "language", "minhash", "dedup", "annotate", "select", "split")


@gin.configurable(module="corpus")
@dataclasses.dataclass(frozen=True)
class Corpus:
    """The whole job.

    Attributes:
      stages: names of the chain's stages in their order (`stages.py`); the writing of the shards follows the last.
      languages: languages to keep; each gets its own folder.
      carried: annotations that the stage `carry` copies into the documents' metadata, as "stage.name" (e.g. "classify.education").
      shard_bytes: UTF-8 bytes of text that a shard holds on average; a shard must fit in a worker's memory.
      samples: dropped documents shown per stage and reason. The stages keep 50 (`tally.py`), so fewer repeat nothing; more repeat all.
      sample_characters: characters of a dropped document's text that are shown; in the same way up to 1,000.
      seed: of the sampling; another one repeats all. These last three stand under "sampling" in the manifest and not in its configuration, because the
        documents do not depend on them.
    """

    inputs: Inputs = dataclasses.field(default_factory=Inputs)
    extraction: Extraction = dataclasses.field(default_factory=Extraction)
    language: LanguageId = dataclasses.field(default_factory=LanguageId)
    minhash: MinHash = dataclasses.field(default_factory=MinHash)
    dedup: Dedup = dataclasses.field(default_factory=Dedup)
    lines: LineDedup = dataclasses.field(default_factory=LineDedup)
    statistics: Statistics = dataclasses.field(default_factory=Statistics)
    japanese: JapaneseFilter = dataclasses.field(default_factory=JapaneseFilter)
    english: EnglishFilter = dataclasses.field(default_factory=EnglishFilter)
    expressions: Expressions = dataclasses.field(default_factory=Expressions)
    classify: Classify = dataclasses.field(default_factory=Classify)
    top_share: TopShare = dataclasses.field(default_factory=TopShare)
    modify: Modify = dataclasses.field(default_factory=Modify)
    host_filter: HostFilter = dataclasses.field(default_factory=HostFilter)
    host_cap: HostCap = dataclasses.field(default_factory=HostCap)
    decontaminate: Decontaminate = dataclasses.field(default_factory=Decontaminate)
    split: Split = dataclasses.field(default_factory=Split)
    stages: Sequence[str] = SWALLOW_V2
    languages: Sequence[str] = ("ja", "en")
    carried: Sequence[str] = ()
    shard_bytes: int = 64 << 20
    samples: int = 20
    sample_characters: int = 500
    seed: int = 1

    def to_json(self) -> dict[str, Any]:
        """The values as JSON types."""
        return json.loads(canonical_json(dataclasses.asdict(self)))

    def validate(self) -> None:
        """Refuse values that mean nothing. Which stages there are, and in what order they can stand: `chain.specs`.

        Raises:
          UsageError: names the value.
        """
        parts = _parts(self)
        for part in parts:
            _check_types(part)
        for part in parts:
            _check_values(part)

    def checks(self) -> list[Check]:
        """Conditions on the values, and between the parts."""
        unfiltered = sorted(set(self.languages) - {"ja", "en"}) if "select" in self.stages else []
        only = f"without {unfiltered[:1]}: there are filters for 'ja' and 'en' only; take it out, or 'select' out of the stages"
        lost = [name for name in self.carried if "." not in name or name.split(".")[0] not in self.stages]
        return [
            ("carried", lost, not lost, "of the form 'stage.name', with a stage of corpus.Corpus.stages"),
            ("languages", self.languages, bool(self.languages), "not empty"),
            ("languages", self.languages, not unfiltered, only),
            ("languages", self.languages, set(self.languages) <= set(self.split.ngrams), "among those of corpus.Split.ngrams"),
            (
                "stages",
                list(self.stages),
                not self.dedup.against or "dedup" in self.stages,
                "with 'dedup', which compares with corpus.Dedup.against",
            ),
            ("samples", self.samples, self.samples >= 0, "0 or more"),
            ("sample_characters", self.sample_characters, self.sample_characters >= 0, "0 or more"),
            ("shard_bytes", self.shard_bytes, self.shard_bytes > 0, "a positive number"),
        ]


def _parts(value: Any) -> list[Any]:
    """A dataclass's dataclasses, all levels, and itself last."""
    fields = [getattr(value, field.name) for field in dataclasses.fields(value)]
    return [*(part for field in fields if dataclasses.is_dataclass(field) for part in _parts(field)), value]


def check_part(part: Any) -> None:
    """Refuse values of a settings dataclass that mean nothing.

    Raises:
      UsageError: names the value.
    """
    _check_types(part)
    _check_values(part)


def _check_types(part: Any) -> None:
    for field in dataclasses.fields(part):
        fine, wanted = _is_of(getattr(part, field.name), field.type)
        if not fine:
            raise _unfit(f"{type(part).__name__}.{field.name}", getattr(part, field.name), wanted)


def _check_values(part: Any) -> None:
    for name, value, fine, wanted in part.checks() if hasattr(part, "checks") else ():
        if not fine:
            raise _unfit(f"{type(part).__name__}.{name}", value, wanted)


def _unfit(name: str, value: Any, wanted: str) -> UsageError:
    return UsageError(f"corpus.{name} = {value!r}: it must be {wanted}; change this binding.")


def _is_of(value: Any, kind: Any) -> tuple[bool, str]:
    """Whether a value is of a field's declared type, and what that is in words. A dataclass field is its own affair."""
    number = isinstance(value, int | float) and not isinstance(value, bool) and value == value
    if kind is bool:
        return isinstance(value, bool), "True or False"
    if kind is int:
        return number and isinstance(value, int), "a whole number"
    if kind == int | None:
        return (number and isinstance(value, int)) or value is None, "a whole number or None"
    if kind is float:
        return number, "a number"
    if kind == float | None:
        return number or value is None, "a number or None"
    if kind is bool:
        return isinstance(value, bool), "True or False"
    if kind is str:
        return isinstance(value, str), "a string"
    if kind == Sequence[str]:
        return isinstance(value, list | tuple) and all(isinstance(v, str) for v in value), "a list of strings"
    if kind == Sequence[int]:
        return isinstance(value, list | tuple) and all(_is_of(v, int)[0] for v in value), "a list of whole numbers"
    if kind == Mapping[str, float]:
        return isinstance(value, Mapping) and all(_is_of(n, float)[0] for n in value.values()), "a dictionary of numbers"
    if kind == Mapping[str, str]:
        return isinstance(value, Mapping) and all(isinstance(n, str) for n in value.values()), "a dictionary of strings"
    if kind == Mapping[str, int]:
        return isinstance(value, Mapping) and all(_is_of(n, int)[0] for n in value.values()), "a dictionary of whole numbers"
    return True, ""


def load(preset: str = "swallow_v2", bindings: Sequence[str] = ()) -> Corpus:
    """Bind the configuration.

    Args:
      preset: name of a file in `gin_configs/corpus/` without its ending, or the path of a gin file.
      bindings: gin bindings that win over the preset, e.g. "corpus.MinHash.bands = 14".

    Raises:
      UsageError: no such preset, a binding of a name that does not exist, or a value without meaning.
    """
    from ja_llm import gin_utils

    file = preset if preset.endswith(".gin") else f"corpus/{preset}.gin"
    if not preset.endswith(".gin") and not (gin_utils.packaged_configs() / file).is_file():
        names = sorted(path.stem for path in (gin_utils.packaged_configs() / "corpus").glob("*.gin"))
        raise UsageError(f"{preset}: there is no such preset; there are {', '.join(names)}, or give the path of a .gin file.")
    packaged = gin_utils.packaged_configs() / file
    try:
        with gin_utils.parsed([str(packaged if packaged.is_file() else Path(file))], list(bindings)):
            config = Corpus()
    except TypeError as error:
        raise UsageError(f"gin configuration ({file}): {str(error).splitlines()[0]}") from error
    try:
        config.validate()
    except TypeError as error:
        raise UsageError(
            f"gin configuration ({', '.join([file, *bindings])}): a value is of the wrong type ({error})."
        ) from error
    return config

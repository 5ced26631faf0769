"""Vocabulary expansion of a whole model: tokenizer, embedding, head, ledger and certificate in one step."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gin
import numpy as np

from ja_llm import manifest
from ja_llm.errors import UsageError
from ja_llm.files import read_json
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.certificate_page import PAGE, page
from ja_llm.vocab.certify import certify, require
from ja_llm.vocab.initialise import SPARE_ROWS, RowRule, check_rows, count_sources, expand_params, padding_for, tables
from ja_llm.vocab.kinds import kind_of
from ja_llm.vocab.published import settings
from ja_llm.vocab.train import iter_texts

if TYPE_CHECKING:
    from ja_llm.train.checkpoints import LoadedModel

CERTIFICATE = "certificate.json"


@gin.configurable
def expand_model(
    model_path: str | os.PathLike,
    documents_root: str | os.PathLike,
    out_dir: str | os.PathLike,
    new_pieces: int = 16000,
    lang: str = "ja",
    limit_chars: int = 100_000_000,
    sample_chars: int = 300_000,
    seed: int = 0,
    pad_to: int = 128,
    embedding_init: str = "mean",
    head_init: str | None = None,
    segments: str | None = None,
    spare_rows: int = SPARE_ROWS,
) -> dict[str, Any]:
    """Expand a model's vocabulary and write the expanded model with its certificate.

    Pieces are learnt on the train split only; the certificate measures on held-out documents where the set has some.
    Equal model, documents and configuration give equal bytes in `vocab/` and equal parameters.

    Args:
      model_path: model directory, or `DIR@STEP`.
      documents_root: document set.
      out_dir: model directory to write; one that was made with the same settings is made again.
      new_pieces: how many pieces to add (other values: gin bindings of `expand_sentencepiece`, `expand_byte_level` or
        `expand_unigram`).
      lang: language of the documents to learn pieces from.
      limit_chars: characters of them to use.
      sample_chars: characters of each language for the certificate.
      seed: of both samples, and of random rows.
      pad_to: rows of zeros bring the tables to a multiple of this; the decoder masks them.
      embedding_init: rule for the new rows of the embedding: "mean", "frequency", "nearest" or "random" (`RowRule`).
      head_init: rule for an untied head; that of the embedding when None.
      segments: what new pieces may not cross, see `ja_llm.vocab.japanese.Runs`; the function's own value when None.
      spare_rows: how many rows of the base without an id are taken for padding, and dropped (`check_fit`).

    Returns:
      the certificate, also written to `out_dir/certificate.json`, and as a page to `certificate.html`.

    Raises:
      JaLlmError: the model's vocabulary does not fit its tables, is of a kind that can't be expanded, or the result fails its
        certificate (then nothing is written).
      UsageError: a path does not exist, the set has no such language, there is no such rule for rows, or `out_dir` holds another
        result.
    """
    from ja_llm.train.checkpoints import load_model, refuse_loss, save_model
    from ja_llm.train.ledger import new_ledger, parent_entry

    refuse_loss(Path(out_dir))
    documents_print = manifest.fingerprint(manifest.read(documents_root, manifest.DOCUMENTS))
    model = load_model(Path(model_path))
    params = as_numpy(model.params)
    base = check_fit(model, params, spare_rows)
    identity = {
        "documents": documents_print,
        "lang": lang,
        "limit_chars": limit_chars,
        "seed": seed,
        "base_vocabulary": base.fingerprint,
        "base": model.ledger.get("identity_hash", ""),
        "base_step": model.step,
    }
    _refuse_other(Path(out_dir), {**identity, "expansion": {"new_pieces": new_pieces}})  # before the work

    def texts() -> Iterator[str]:
        return iter_texts(documents_root, lang, "train", limit_chars, seed)

    expansion = kind_of(base).expand(texts(), new_pieces, **({} if segments is None else {"segments": segments}))
    expansion.tokenizer.chat_template, expansion.tokenizer.published = base.chat_template, settings(base.published)
    padding = padding_for(expansion.tokenizer.vocab_size, pad_to)
    counts = {}
    if "frequency" in (embedding_init, head_init):
        counts = count_sources((base.encode(text) for text in texts()), expansion.sources)
    rules = {name: RowRule(how, counts, seed) for name, how in (("embedding", embedding_init), ("head", head_init)) if how}
    new_params = expand_params(params, expansion.sources, base_size=base.vocab_size, padding=padding, **rules)
    if "head" in tables(params):
        rules.setdefault("head", rules["embedding"])
    samples = sample_texts(documents_root, sample_chars, seed)
    certificate = certify(base, expansion.tokenizer, expansion.sources, params, new_params, samples, rules=rules, padding=padding)
    require(certificate)
    certificate |= {"unreachable": expansion.unreachable, "config": expansion.config}
    identity |= {"expansion": expansion.config, "vocabulary": expansion.tokenizer.fingerprint}
    if padding or any(rule.method != "mean" for rule in rules.values()):
        identity |= {"pad_to": pad_to, "rows": {name: rule.to_json() for name, rule in rules.items()}}
    _refuse_other(Path(out_dir), {"pad_to": None, "rows": None, **identity})
    save_model(
        Path(out_dir),
        config=dataclasses.replace(model.config, vocab_size=expansion.tokenizer.vocab_size + padding, padding_ids=padding),
        params=new_params,
        tokenizer=expansion.tokenizer,
        ledger=new_ledger("vocab expand", identity, [parent_entry(model.directory, model.step, model.ledger)]),
        notes={CERTIFICATE: certificate, PAGE: page(certificate, f"{model.directory.name} \u2192 {Path(out_dir).name}")},
    )
    return certificate


def _refuse_other(out_dir: Path, wanted: Mapping[str, Any]) -> None:
    """Raise UsageError when `out_dir` holds another model than one that `vocab expand` made with the settings `wanted`, as far as they
    are given; the vocabulary that came of them is none."""
    from ja_llm.train.ledger import first_difference

    path = out_dir / "run.json"
    if not path.exists():
        return
    ledger = read_json(path, "ledger")
    if ledger.get("job") != "vocab expand":
        raise UsageError(
            f"{out_dir}: this folder holds a model of `{ledger.get('job', 'unknown')}`, which would be lost; choose a new or empty one."
        )
    made = ledger.get("identity", {})
    for key in sorted(wanted.keys() - {"vocabulary"}):
        now, was = wanted[key], made.get(key)
        if isinstance(now, Mapping) and isinstance(was, Mapping):
            was = {name: was.get(name) for name in was.keys() & now.keys()} | {name: None for name in now.keys() - was.keys()}
        if was != now:
            name, before, here = first_difference(was, now, key)
            raise UsageError(
                f"{out_dir}: this folder holds a model expanded with other settings: {name} was {before}, now it is {here}; choose another "
                "folder, or remove it."
            )


def certify_models(
    old_path: str | os.PathLike,
    new_path: str | os.PathLike,
    documents_root: str | os.PathLike,
    sample_chars: int = 300_000,
    seed: int = 0,
    rebuild: bool = False,
    spare_rows: int = SPARE_ROWS,
) -> dict[str, Any]:
    """Certify an expanded model directory against its base.

    Taken from its maker's word are the rule for rows, and the fingerprint that the ledger recorded for the new vocabulary. With
    `rebuild` the pieces are learnt again and compared, so that no score or merge rests on that word.

    Args:
      old_path: model directory of the base, or `DIR@STEP`.
      new_path: model directory of the expanded model, or `DIR@STEP`.
      documents_root: document set for sample texts.
      sample_chars: characters of each language.
      seed: of the sample.
      rebuild: expand the base again, from the same documents with the ledger's settings; takes as long as it did.
      spare_rows: how many rows without an id are taken for padding (`check_fit`).

    Raises:
      JaLlmError: a model is damaged, or its vocabulary does not fit its tables.
      UsageError: to `rebuild`, the model is not as `vocab expand` wrote it, or the document set is another one.
    """
    from ja_llm.train.checkpoints import load_model

    old, new = load_model(Path(old_path)), load_model(Path(new_path))
    old_params, new_params = as_numpy(old.params), as_numpy(new.params)
    before, after = check_fit(old, old_params, spare_rows), check_fit(new, new_params, spare_rows)
    samples = sample_texts(documents_root, sample_chars, seed)
    note = new.directory / CERTIFICATE
    told = read_json(note, "certificate").get("rows", {}) if note.exists() else {}
    rules = {name: RowRule.from_json(rule) for name, rule in told.items()}
    padding = new.config.padding_ids
    sources = kind_of(before).sources(after) if type(before) is type(after) else []
    identity = new.ledger.get("identity", {})
    known = {"recorded": identity["vocabulary"]} if "vocabulary" in identity else {}
    known |= {"rebuilt": rebuilt_fingerprint(new.directory, new.ledger, before, documents_root)} if rebuild else {}
    return certify(before, after, sources, old_params, new_params, samples, rules=rules, padding=padding, fingerprints=known)


def rebuilt_fingerprint(directory: Path, ledger: Mapping[str, Any], base: Tokenizer, documents_root: str | os.PathLike) -> str:
    """Fingerprint of the vocabulary that the ledger's settings give once more.

    Raises:
      UsageError: the ledger is none of `vocab expand`, or the document set is not the one that it names.
    """
    identity = ledger.get("identity", {})
    if ledger.get("job") != "vocab expand":
        raise UsageError(
            f"{directory}: this model was not written by `vocab expand`, so its pieces can't be learnt again; give the one that was."
        )
    if identity["documents"] != manifest.fingerprint(manifest.read(documents_root, manifest.DOCUMENTS)):
        raise UsageError(
            f"{documents_root}: the pieces of {directory} were learnt on another document set, {identity['documents'][:12]}; give that one."
        )
    texts = iter_texts(documents_root, identity["lang"], "train", identity["limit_chars"], identity["seed"])
    return kind_of(base).expand(texts, **identity["expansion"]).tokenizer.fingerprint


def check_fit(model: "LoadedModel", params: Mapping[str, Any], spare_rows: int = SPARE_ROWS) -> Tokenizer:
    """The model's tokenizer, if its vocabulary tables have a row for each id and about no more.

    Args:
      model: whose tokenizer, and padding that is masked.
      params: its parameters as numpy arrays.
      spare_rows: how many further rows are taken for padding, which published models have without a word.

    Raises:
      JaLlmError: they have fewer, or more; the sentence names both sizes.
    """
    for name, table in tables(params).items():
        rows = table.shape[0] - model.config.padding_ids
        check_rows(model.directory, name, rows, model.tokenizer.vocab_size, spare_rows)
    return model.tokenizer


def sample_texts(documents_root: str | os.PathLike, limit_chars: int, seed: int) -> dict[str, list[str]]:
    """A sample of each language of a document set: its held-out documents, or train documents where it has none held out."""
    shards = manifest.read(documents_root, manifest.DOCUMENTS)["shards"]
    splits: dict[str, set[str]] = {}
    for shard in shards:
        if shard.get("documents", 1):
            splits.setdefault(shard["lang"], set()).add(shard["split"])
    if not splits:
        raise UsageError(f"{documents_root}: this document set is empty; build it again from some input.")
    texts = {}
    for lang in sorted(splits):
        split = "heldout" if "heldout" in splits[lang] else sorted(splits[lang])[0]
        texts[lang] = list(iter_texts(documents_root, lang, split, limit_chars, seed))
    return texts


def as_numpy(params: Any) -> Any:
    """The same tree with numpy leaves."""
    if isinstance(params, Mapping):
        return {key: as_numpy(value) for key, value in params.items()}
    return np.asarray(params)

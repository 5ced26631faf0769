"""A whole model trimmed to fewer pieces, with its certificate; and the way back to the vocabulary that a model came from."""

import dataclasses
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gin
import numpy as np

from ja_llm import manifest
from ja_llm.errors import JaLlmError, UsageError
from ja_llm.files import read_json
from ja_llm.models.config import ARCHITECTURE_FIELDS
from ja_llm.vocab.base import Tokenizer
from ja_llm.vocab.certificate_page import PAGE, page
from ja_llm.vocab.certify import Report, require, summary
from ja_llm.vocab.initialise import SPARE_ROWS, map_tables, padding_for, tables
from ja_llm.vocab.published import settings
from ja_llm.vocab.surgery import CERTIFICATE, as_numpy, check_fit, sample_texts
from ja_llm.vocab.train import iter_texts
from ja_llm.vocab.trim import trim_tokenizer

KEPT = "kept_ids.json"
_LOGIT_TOKENS, _LOGIT_ROWS, _CLOSE = 64, 16, 1e-5


@gin.configurable
def trim_model(
    model_path: str | os.PathLike,
    documents_root: str | os.PathLike,
    out_dir: str | os.PathLike,
    min_count: int = 1,
    keep_file: str | os.PathLike | None = None,
    pad_to: int = 128,
    limit_chars: int = 100_000_000,
    sample_chars: int = 100_000,
    seed: int = 0,
    spare_rows: int = SPARE_ROWS,
) -> dict[str, Any]:
    """Drop the pieces that a document set does not use, and write the smaller model with its certificate.

    Args:
      model_path: model directory, or `DIR@STEP`.
      documents_root: document set; the train split of every language is counted.
      out_dir: model directory to write; an existing one is replaced. `kept_ids.json` in it says which old ids it has.
      min_count: keep ids that stand in the documents this often.
      keep_file: JSON list of ids to keep, in place of counting.
      pad_to: rows of zeros bring the tables to a multiple of this.
      limit_chars: characters of each language to count.
      sample_chars: characters of each language for the certificate.
      seed: of the samples.
      spare_rows: how many rows of the model without an id are taken for padding, and dropped (`check_fit`).

    Returns:
      the certificate, also written to `out_dir/certificate.json`, and as a page to `certificate.html`.

    Raises:
      JaLlmError: the model's vocabulary does not fit its tables or can't be trimmed, or the result fails its certificate.
      UsageError: a path does not exist, or the list of ids is none of this vocabulary's.
    """
    from ja_llm.train.checkpoints import load_model, refuse_foreign, save_model
    from ja_llm.train.ledger import carried_ids, new_ledger, parent_entry

    refuse_foreign(Path(out_dir))
    documents_print = manifest.fingerprint(manifest.read(documents_root, manifest.DOCUMENTS))
    model = load_model(Path(model_path))
    params = as_numpy(model.params)
    old = check_fit(model, params, spare_rows)
    keep = _listed(keep_file) if keep_file else used_ids(old, documents_root, min_count, limit_chars, seed)
    trimmed = trim_tokenizer(old, keep)
    trimmed.tokenizer.chat_template, trimmed.tokenizer.published = old.chat_template, settings(old.published)
    padding = padding_for(trimmed.tokenizer.vocab_size, pad_to)
    config = dataclasses.replace(model.config, vocab_size=len(trimmed.kept) + padding, padding_ids=padding)
    new_params = map_tables(params, lambda table, _: np.pad(table[trimmed.kept], ((0, padding), (0, 0))))
    report = Report()
    samples = [text for texts in sample_texts(documents_root, sample_chars, seed).values() for text in texts]
    _check_spelling(report, old, trimmed.tokenizer, trimmed.kept, samples)
    _check_rows(report, params, new_params, trimmed.kept, padding)
    _check_logits(report, (model.config, params, old), (config, new_params), trimmed.kept, samples)
    certificate = summary(report, old, trimmed.tokenizer) | {"asked": len(set(keep)), "needed_beside": trimmed.steps}
    require(certificate)
    identity = {
        "documents": documents_print,
        "min_count": min_count,
        "kept": len(trimmed.kept),
        "base_vocabulary": old.fingerprint,
        "base": model.ledger.get("identity_hash", ""),
        "base_step": model.step,
        "vocabulary": trimmed.tokenizer.fingerprint,
    }
    save_model(
        Path(out_dir),
        config=config,
        params=new_params,
        tokenizer=trimmed.tokenizer,
        ledger=new_ledger(
            "vocab trim",
            identity,
            [parent_entry(model.directory, model.step, model.ledger)],
            **carried_ids(model.ledger, trimmed.kept),
        ),
        notes={
            CERTIFICATE: certificate,
            KEPT: trimmed.kept,
            PAGE: page(certificate, f"{model.directory.name} \u2192 {Path(out_dir).name}", "a vocabulary that was trimmed"),
        },
    )
    return certificate


def used_ids(
    tokenizer: Tokenizer, documents_root: str | os.PathLike, min_count: int, limit_chars: int | None, seed: int = 0
) -> list[int]:
    """Ids that the train documents of a set use at least `min_count` times.

    Raises:
      UsageError: the set has no train documents.
    """
    shards = manifest.read(documents_root, manifest.DOCUMENTS)["shards"]
    languages = sorted({s["lang"] for s in shards if s["split"] == "train" and s.get("documents", 1)})
    if not languages:
        raise UsageError(f"{documents_root}: this document set has no train documents to count pieces in; build it again.")
    counts: Counter[int] = Counter()
    for lang in languages:
        for text in iter_texts(documents_root, lang, "train", limit_chars, seed):
            counts.update(tokenizer.encode(text))
    return sorted(i for i, count in counts.items() if count >= min_count)


def _listed(path: str | os.PathLike) -> list[int]:
    value = read_json(Path(path), "list of ids to keep")
    if not isinstance(value, list) or not value or not all(isinstance(i, int) and not isinstance(i, bool) for i in value):
        raise UsageError(f"{path}: a JSON list of ids such as [5, 17, 300] is needed here, with at least one.")
    return value


def _check_spelling(report: Report, old: Tokenizer, new: Tokenizer, kept: Sequence[int], texts: Iterable[str]) -> None:
    """Names of the kept pieces, and ids of every line that is spelt with them alone."""
    names = [old.id_to_piece(i) for i in kept] == [new.id_to_piece(i) for i in range(new.vocab_size)]
    report.add("kept_pieces_identical", names, "a kept piece has another name", kept=len(kept))
    place = {i: n for n, i in enumerate(kept)}
    lines = [line for text in texts for line in text.split("\n") if line]
    before = old.encode_batch(lines)
    inside = [(line, [place[i] for i in ids]) for line, ids in zip(lines, before, strict=True) if place.keys() >= set(ids)]
    after = new.encode_batch([line for line, _ in inside])
    differ = [line for (line, wanted), ids in zip(inside, after, strict=True) if ids != wanted]
    reason = f"{len(differ)} lines of kept pieces got other ids, e.g. {differ[:3]}"
    report.add("ids_identical", not differ, reason, lines=len(inside), share_of_lines=len(inside) / max(len(lines), 1))


def _check_rows(report: Report, old: Mapping, new: Mapping, kept: Sequence[int], padding: int) -> None:
    for name, table in tables(old).items():
        rows = tables(new)[name]
        same = all(rows[n].tobytes() == table[i].tobytes() for n, i in enumerate(kept))
        zero = rows.shape[0] == len(kept) + padding and not np.any(rows[len(kept) :])
        report.add(f"{name}_rows_identical", same and zero, "rows changed, or those that pad the table are not zero")


def _check_logits(
    report: Report, old: tuple[Any, Any, Tokenizer], new: tuple[Any, Any], kept: Sequence[int], texts: Iterable[str]
) -> None:
    """Log-probabilities over kept ids are the old ones renormalised over them, on texts of kept pieces alone and random ids."""
    config, params, tokenizer = old
    place = {i: n for n, i in enumerate(kept)}
    rows = [ids for text in texts for line in text.split("\n") if (ids := tokenizer.encode(line)) and place.keys() >= set(ids)]
    length = min(_LOGIT_TOKENS, config.max_length)
    rows = [[tokenizer.bos_id, *ids][:length] for ids in rows[:_LOGIT_ROWS]]
    rows += np.random.default_rng(0).choice(kept, (_LOGIT_ROWS, length)).tolist()
    full, small = _logits(config, params, length), _logits(*new, length)
    worst = 0.0
    for row in rows:
        before = _normalised(full(row)[:, kept])
        after = _normalised(small([place[i] for i in row])[:, : len(kept)])
        worst = max(worst, float(np.abs(before - after).max()))
    report.add(
        "logits_equal",
        worst <= _CLOSE,
        f"log-probabilities differ by {worst}",
        max_abs_error=worst,
        rows=len(rows),
    )


def _logits(config: Any, params: Any, length: int) -> Callable[[Sequence[int]], np.ndarray]:
    """A function from one row of ids, at most `length`, to its logits, computed in float32: float64 [L, V]."""
    import jax

    from ja_llm.models.decoder import Decoder

    module = Decoder(dataclasses.replace(config, dtype="float32"))
    forward = jax.jit(lambda tree, tokens: module.apply({"params": tree}, tokens, tokens))

    def logits(ids: Sequence[int]) -> np.ndarray:
        tokens = np.zeros((1, length), np.int32)  # what stands behind a token changes nothing for it
        tokens[0, : len(ids)] = ids
        with jax.default_matmul_precision("highest"):
            return np.asarray(forward(params, tokens)[0, : len(ids)], np.float64)

    return logits


def _normalised(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


@gin.configurable
def rollback_model(model_path: str | os.PathLike, base_path: str | os.PathLike, out_dir: str | os.PathLike) -> dict[str, Any]:
    """Bring an expanded or trimmed model, trained or not, back to the vocabulary of its base.

    Rows of pieces that both have are the model's; rows that it lacks (after trimming) are the base's; new pieces go.

    Args:
      model_path: model directory, run, or `DIR@STEP`.
      base_path: model directory of the base, or `DIR@STEP`.
      out_dir: model directory to write.

    Returns:
      {"from_model": rows, "from_base": rows, "dropped": rows}.

    Raises:
      JaLlmError: the model's vocabulary is neither an expansion nor a trimming of the base's, or their architectures differ.
    """
    from ja_llm.train.checkpoints import load_model, refuse_foreign, save_model
    from ja_llm.train.ledger import carried_ids, new_ledger, parent_entry

    refuse_foreign(Path(out_dir))
    model, base = load_model(Path(model_path)), load_model(Path(base_path))
    for name in (*ARCHITECTURE_FIELDS, "param_dtype", "scan_layers"):
        was, now = getattr(base.config, name), getattr(model.config, name)
        if name not in ("vocab_size", "padding_ids", "max_length") and was != now:
            raise JaLlmError(
                f"{model.directory}: {name} is {now!r}, but {was!r} in {base.directory}; give the base that it came from."
            )
    shared = shared_ids(model.tokenizer, base.tokenizer, str(model.directory), str(base.directory))
    old, new = (list(ids) for ids in zip(*shared, strict=True))
    rows, base_params = tables(as_numpy(model.params)), as_numpy(base.params)

    def put(table: np.ndarray, name: str) -> np.ndarray:
        table = table.copy()
        table[old] = rows[name][new]
        return table

    tree = map_tables(base_params, put)
    changed = {name: tree[name] for name in ("token_embedder", "logits_dense") if name in tree}
    counts = {
        "from_model": len(shared),
        "from_base": base.tokenizer.vocab_size - len(shared),
        "dropped": model.tokenizer.vocab_size - len(shared),
    }
    identity = {
        **counts,
        "base_vocabulary": model.tokenizer.fingerprint,
        "base": model.ledger.get("identity_hash", ""),
        "base_step": model.step,
        "vocabulary": base.tokenizer.fingerprint,
    }
    parents = [parent_entry(m.directory, m.step, m.ledger) for m in (model, base)]
    save_model(
        Path(out_dir),
        config=dataclasses.replace(model.config, vocab_size=base.config.vocab_size, padding_ids=base.config.padding_ids),
        params={**as_numpy(model.params), **changed},
        tokenizer=base.tokenizer,
        ledger=new_ledger("vocab rollback", identity, parents, **carried_ids(base.ledger)),
    )
    return counts


def shared_ids(model: Tokenizer, base: Tokenizer, model_name: str, base_name: str) -> list[tuple[int, int]]:
    """(id in base, id in model) of each piece that both have, in order.

    Raises:
      JaLlmError: neither vocabulary holds all pieces of the other in the same order.
    """
    ours = {model.id_to_piece(i): i for i in range(model.vocab_size)}
    pairs = [(i, ours[piece]) for i in range(base.vocab_size) if (piece := base.id_to_piece(i)) in ours]
    ordered = all(a[1] < b[1] for a, b in zip(pairs, pairs[1:], strict=False))
    special = dict(pairs).get(base.bos_id) == model.bos_id and dict(pairs).get(base.eos_id) == model.eos_id
    if type(model) is not type(base) or not ordered or not special or len(pairs) < min(model.vocab_size, base.vocab_size):
        raise JaLlmError(
            f"{model_name}: its vocabulary is neither an expansion nor a trimming of that of {base_name}; give the base that it came from."
        )
    return pairs

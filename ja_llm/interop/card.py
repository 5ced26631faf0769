"""The model card of an export, from the run's ledger: what the weights came from, and nothing that the ledger does not say."""

from typing import Any


def model_card(loaded: Any) -> str:
    """README.md of an export.

    Args:
      loaded: a `ja_llm.train.checkpoints.LoadedModel`.
    """
    ledger, config = loaded.ledger, loaded.config
    identity = ledger.get("identity", {})
    rows = [
        ("architecture", f"{config.family}, {config.num_layers} layers, width {config.embed_dim}, {config.vocab_size} pieces"),
        ("made by", f"ja_llm {ledger.get('software', {}).get('ja_llm', '')} ({ledger.get('job', 'unknown')}), step {loaded.step}"),
        ("base", " <- ".join(_ancestors(ledger)) or "random weights"),
        ("mixture", identity.get("mixture", "")),
        ("data fingerprint", identity.get("data", "")),
        ("vocabulary fingerprint", loaded.tokenizer.fingerprint),
        ("rows a step, tokens a row", f"{identity.get('batch_size', '')}, {identity.get('length', '')}" if "batch_size" in identity else ""),
        ("optimizer", _settings(identity.get("optimizer"))),
        ("schedule", _settings(identity.get("schedule"))),
        ("seed", str(identity.get("seed", ""))),
        ("ledger hash", ledger.get("identity_hash", "")),
    ]
    table = "\n".join(f"| {name} | {value} |" for name, value in rows if value)
    return (
        "---\nlibrary_name: transformers\npipeline_tag: text-generation\nlanguage: [ja, en]\n---\n\n"
        f"# {loaded.directory.name}\n\n| | |\n|---|---|\n{table}\n\n"
        "The licences of the training documents stand in the document set's manifest; this card claims none of its own.\n"
    )


def _ancestors(ledger: dict[str, Any]) -> list[str]:
    names = []
    while ledger.get("parents"):
        parent = ledger["parents"][0]
        names.append(f"{parent['name']} ({parent['job']}, step {parent['step']})")
        ledger = parent
    return names


def _settings(value: dict[str, Any] | None) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if value else ""

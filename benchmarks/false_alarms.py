"""How often the forgetting monitor's alarm goes off, by how far a domain has really risen: simulated runs.

    nice -n 5 python -m benchmarks.false_alarms            # a minute on one core

A run has 30 probes of 64 documents: lognormal sizes (sigma 0.8) and difficulties (sigma 0.25), a lasting answer of each document to the training
(sigma 4 %) and a move of its own at each probe (1 %). Over all documents of the domain, bits per byte have risen by the given share from the
eleventh probe on. Counted are runs with an alarm of `Alarm(relative_rise=0.05)`, whose `false_alarms` is 0.01, before the eleventh
probe and from then on. Writes benchmarks/results/false_alarms.json.
"""

import argparse
from pathlib import Path

import numpy as np

from ja_llm.files import write_json
from ja_llm.train.alarms import Alarm

RESULT = Path(__file__).resolve().parent / "results" / "false_alarms.json"
RUNS, PROBES, DOCUMENTS, BEGINS, BOUND = 500, 30, 64, 10, 0.05
RISES = (0.0, 0.025, 0.05, 0.07, 0.1, 0.15)


def drawn(rng: np.random.Generator, levels: np.ndarray) -> np.ndarray:
    """float64 [probes + 1, documents, 2]: bits and bytes at step 0 and at each probe, of documents of a domain.

    Args:
      rng: draws the documents anew.
      levels: [probes], the domain's bits per byte as multiples of those at step 0 (1.2), if all its documents were measured.
    """
    sizes = np.rint(np.exp(rng.normal(7, 0.8, DOCUMENTS))) + 50
    difficulty = 1.2 * np.exp(rng.normal(0, 0.25, DOCUMENTS) - 0.25**2 / 2)
    own = np.exp(rng.normal(0, 0.04, DOCUMENTS) - 0.04**2 / 2)
    jitter = 1 + rng.normal(0, 0.01, (len(levels), DOCUMENTS))
    bits = np.concatenate([difficulty[None], difficulty * own * levels[:, None] * jitter]) * sizes
    return np.stack([bits, np.broadcast_to(sizes, bits.shape)], axis=-1)


def first_alarm(alarm: Alarm, run: np.ndarray) -> int | None:
    """The probe (from 0) at which the alarm goes off in a run whose only domain this is."""
    over = 0
    for probe, rows in enumerate(run[1:]):
        over = over + 1 if alarm.crossed(rows, run[0], (len(run) - 1) * len(alarm.bounds)) else 0
        if over >= alarm.patience:
            return probe
    return None


def main() -> None:
    """Simulate and write."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    alarm, rows = Alarm(relative_rise=BOUND), []
    for rise in RISES:
        rng = np.random.default_rng([5, round(1000 * rise)])
        levels = 1 + rise * (np.arange(PROBES) >= BEGINS)
        found = [first_alarm(alarm, drawn(rng, levels)) for _ in range(RUNS)]
        rows.append(
            {
                "rise": rise,
                "before": sum(probe is not None and probe < BEGINS for probe in found) / RUNS,
                "after": sum(probe is not None and probe >= BEGINS for probe in found) / RUNS,
            }
        )
        print(rows[-1], flush=True)
    write_json(
        RESULT,
        {
            "runs": RUNS,
            "probes": PROBES,
            "documents": DOCUMENTS,
            "bound": BOUND,
            "false_alarms": alarm.false_alarms,
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()

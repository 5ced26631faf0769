"""Japanese text: scripts, normalisation, sentences. One copy, used by the corpus job, decontamination and evaluation."""

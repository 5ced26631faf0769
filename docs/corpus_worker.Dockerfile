# Image of the corpus job's Beam workers (Flink, Spark): Beam's SDK harness with this wheel, and nothing fetched at run time.
#   python -m build --wheel && docker build -f docs/corpus_worker.Dockerfile -t REGISTRY/ja-llm-corpus:1 .
# The SDK's version must be the one that the launching machine has installed (requirements.lock).
FROM apache/beam_python3.11_sdk:2.77.0
COPY requirements.lock dist/*.whl /tmp/ja_llm/
RUN wheel=$(ls /tmp/ja_llm/*.whl) && pip install --no-cache-dir -c /tmp/ja_llm/requirements.lock "ja_llm[beam] @ file://$wheel" && rm -r /tmp/ja_llm
# Stages open many files and start an extractor process each; the entry point is the image's own (/opt/apache/beam/boot).

"""The published sizes in gin_configs/models have the parameter counts that their makers' model cards give, and an HF name."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from ja_llm.interop import hf_config
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import abstract_params
from ja_llm.models.families import tensors

# name -> (ids of the published vocabulary, parameters: the total that its safetensors state)
PUBLISHED = {
    "llama2_7b": (32_000, 6_738_415_616),
    "llama2_13b": (32_000, 13_015_864_320),
    "llama2_70b": (32_000, 68_976_648_192),
    "llama3_8b": (128_256, 8_030_261_248),
    "llama3_70b": (128_256, 70_553_706_496),
    "llama31_8b": (128_256, 8_030_261_248),
    "llama31_70b": (128_256, 70_553_706_496),
    "llama31_405b": (128_256, 405_853_388_800),
    "llama32_1b": (128_256, 1_235_814_400),
    "llama32_3b": (128_256, 3_212_749_824),
    "smollm2_135m": (49_152, 134_515_008),
    "smollm2_360m": (49_152, 361_821_120),
    "smollm2_1_7b": (49_152, 1_711_376_384),
    "mistral_7b": (32_000, 7_241_732_096),
    "mixtral_8x7b": (32_000, 46_702_792_704),
    "mixtral_8x22b": (32_000, 140_620_634_112),
    "gemma_2b": (256_000, 2_506_172_416),
    "gemma_7b": (256_000, 8_537_680_896),
    "gemma2_2b": (256_000, 2_614_341_888),
    "gemma2_9b": (256_000, 9_241_705_984),
    "gemma2_27b": (256_000, 27_227_128_320),
    "qwen25_0_5b": (151_936, 494_032_768),
    "qwen25_1_5b": (151_936, 1_543_714_304),
    "qwen25_3b": (151_936, 3_085_938_688),
    "qwen25_7b": (152_064, 7_615_616_512),
    "qwen25_14b": (152_064, 14_770_033_664),
    "qwen25_32b": (152_064, 32_763_876_352),
    "qwen25_72b": (152_064, 72_706_203_648),
    "qwen2_7b": (152_064, 7_615_616_512),
    "qwen3_0_6b": (151_936, 596_049_920),
    "qwen3_1_7b": (151_936, 1_720_574_976),
    "qwen3_4b": (151_936, 4_022_468_096),
    "qwen3_8b": (151_936, 8_190_735_360),
    "qwen3_14b": (151_936, 14_768_307_200),
    "qwen3_32b": (151_936, 32_762_123_264),
    "olmo2_1b": (100_352, 1_484_916_736),
    "olmo2_7b": (100_352, 7_298_617_344),
    "olmo2_13b": (100_352, 13_716_198_400),
    "olmo2_32b": (100_352, 32_234_279_936),
    "starcoder_15b": (49_152, 15_517_456_384),
}
OURS = {"tiny_2m", "tiny_3m", "tiny_test"}


@pytest.fixture(scope="module")
def configs():
    """Each size as its gin file makes it; in a process of its own, because gin's bindings are global."""
    code = f"""
import gin, json
from ja_llm import gin_utils
from ja_llm.models.config import DecoderConfig
found = {{}}
for name, (size, _) in {PUBLISHED!r}.items():
    with gin_utils.parsed(["models/" + name + ".gin"], []):
        found[name] = gin.query_parameter("%MODEL").scoped_configurable_fn(vocab_size=size).parts()
print(json.dumps(found))
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return {name: DecoderConfig.from_parts(parts) for name, parts in json.loads(result.stdout).items()}


def test_every_file_is_known():
    files = {path.stem for path in (Path(__file__).parents[2] / "gin_configs" / "models").glob("*.gin")}
    assert files == OURS | PUBLISHED.keys()


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_size_has_its_published_count_and_can_be_exported(configs, name):
    config = configs[name]
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(abstract_params(config))) == PUBLISHED[name][1]
    assert sum(math.prod(tensor.shape) for tensor in tensors(config)) == PUBLISHED[name][1]
    written = hf_config.to_hf(config, "bfloat16", 1, 2)
    assert hf_config.from_hf(written, "config.json", config.param_dtype) == config

"""What a checkpoint that can't be restored is said to be: foreign, forbidden, too large or damaged; only damage is to be removed."""

import os
import shutil

import jax
import orbax.checkpoint as ocp
import pytest

from ja_llm.errors import JaLlmError
from ja_llm.models.config import DecoderConfig
from ja_llm.models.decoder import init_params
from ja_llm.train.checkpoint_errors import unreadable
from ja_llm.train.checkpoints import Checkpoints
from ja_llm.train.optimizers import AdamW
from ja_llm.train.step import init_optimizer

SIZES = {"vocab_size": 512, "embed_dim": 8, "num_layers": 1, "num_heads": 2, "num_kv_heads": 1, "head_dim": 4, "max_length": 8}


def state(mlp_dim=8):
    params = init_params(DecoderConfig(**SIZES, mlp_dim=mlp_dim), jax.random.key(0))
    transformation = AdamW().transformation()
    return params, transformation.update(params, init_optimizer(transformation, params), params)[1]  # moments that are no zeros


def abstract(tree):
    on_device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=on_device), tree)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(directory, asynchronous=False)
    checkpoints.save(5, *state())
    checkpoints.close()
    return directory


@pytest.fixture
def run(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    return tmp_path / "run"


def restore(directory, *trees):
    """What the failed restore says."""
    with pytest.raises(JaLlmError) as caught:
        Checkpoints(directory).restore(5, *abstract(trees or state()))
    text = str(caught.value)
    assert text.startswith(f"{directory}/checkpoints/5: ") and len(text.splitlines()) == 1
    return text


def damage_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255  # no UTF-8 any more, where it was JSON
    path.write_bytes(bytes(content))


def index(item):
    return list((item / "d").iterdir())


def chunk(item):
    """The file with the table's numbers, too long to stand in the index."""
    return [max(item.glob("ocdbt.process_*/d/*"), key=lambda file: file.stat().st_size)]


def description(item):
    return [item / "_METADATA"]


@pytest.mark.parametrize("item", ["params", "optimizer"])
@pytest.mark.parametrize(
    ("what", "damage"),
    # A byte changed inside a chunk is not among these: orbax stores numbers without a checksum.
    [(index, damage_half), (index, damage_flip), (index, os.remove), (chunk, damage_half), (chunk, os.remove)]
    + [(description, damage_half), (description, damage_flip), (description, os.remove)],
)
def test_a_damaged_checkpoint_is_said_to_be_damaged(run, item, damage, what):
    files = what(run / "checkpoints/5" / item)
    assert files
    for file in files:
        damage(file)
    text = restore(run)
    assert "is damaged" in text and "remove it to go on from the one before" in text


def test_a_checkpoint_of_another_model_is_never_to_be_removed(run):
    text = restore(run, *state(mlp_dim=16))
    assert "belongs to another model: layers/mlp/wi_0/kernel is (1, 8, 8) in it, (1, 8, 16) in" in text
    assert "remove" not in text and "damaged" not in text


def test_a_checkpoint_of_another_optimizer_names_its_first_foreign_array(run):
    params, moments = state()
    other = {"lion": {"mu": moments["adam"].mu}}
    text = restore(run, params, other)
    assert "belongs to another optimizer: state/adam/count is () in it, absent in this run's optimizer" in text
    assert "remove" not in text and "damaged" not in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("what", [".", "_METADATA", "manifest.ocdbt", "d/*"])
def test_a_checkpoint_without_permission_says_so(run, what):
    files = list((run / "checkpoints/5/optimizer").glob(what)) if what != "." else [run / "checkpoints/5/optimizer"]
    modes = [(file, file.stat().st_mode) for file in files]
    for file in files:
        file.chmod(0)
    try:
        text = restore(run)
    finally:
        for file, mode in modes:
            file.chmod(mode)
    assert "no permission to read this" in text and "remove" not in text


# As TensorStore and the file system word them; seen as another user, and from TensorStore's sources for the failing disk.
@pytest.mark.parametrize(
    ("error", "says"),
    [
        (PermissionError(13, "Permission denied"), "no permission to read"),
        (
            ValueError("PERMISSION_DENIED: Failed to open: \"d/1\": Permission denied [os_error_code='13']"),
            "no permission to read",
        ),
        (OSError(5, "Input/output error"), "can't be read (Input/output error)"),
        (ValueError("UNKNOWN: Error reading \"d/1\": Input/output error [os_error_code='5']"), "can't be read (Input/output"),
        (OSError(116, "Stale file handle"), "can't be read (Stale file handle)"),
        (MemoryError(), "not enough memory"),
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 17179869184 bytes."), "not enough memory"),
        (ValueError("UNKNOWN: Error mapping [os_error_code='12']"), "not enough memory"),
        (TypeError("unhashable type: 'list'"), "could not be restored (TypeError: unhashable type: 'list'); keep it"),
    ],
)
def test_what_is_no_damage_is_never_to_be_removed(run, monkeypatch, error, says):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(ocp.StandardCheckpointHandler, "restore", fail)
    text = restore(run)
    assert says in text
    assert "remove" not in text and "damaged" not in text


def test_the_cause_of_an_error_counts(tmp_path):
    try:
        try:
            raise OSError(5, "Input/output error")
        except OSError as cause:
            raise ValueError("the item can't be restored") from cause
    except ValueError as error:
        assert "Input/output error" in str(unreadable(tmp_path, error))
    assert "is damaged" in str(unreadable(tmp_path, FileNotFoundError(2, "No such file or directory")))
    assert unreadable(tmp_path, ValueError("NOT_FOUND: d/1 [os_error_code='2']")).args[0].count("remove it") == 1

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save, save_file

from edgellm.errors import CheckpointError
from edgellm.exporters.checkpoint import Checkpoint, read_header, row_blocks

TENSORS = {
    "a": np.arange(12, dtype=np.float32).reshape(4, 3),
    "b": np.arange(6, dtype=np.float16).reshape(3, 2),
    "c": np.arange(5, dtype=np.uint8),
}


def file_with(path, entries, data_bytes):
    header = json.dumps(entries).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(data_bytes))
    return path


def entry(dtype="F32", shape=(2, 2), offsets=(0, 16)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.fixture
def checkpoint(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    save_file(TENSORS, tmp_path / "model.safetensors")
    return tmp_path


def test_tensors_are_listed_and_read(checkpoint):
    found = Checkpoint(checkpoint)

    assert {name: tensor.shape for name, tensor in found.tensors.items()} == {
        "a": (4, 3), "b": (3, 2), "c": (5,),
    }  # fmt: skip
    assert (found.read("b") == TENSORS["b"]).all()
    assert (found.read_rows("a", 1, 3) == TENSORS["a"][1:3]).all()
    assert (found.read_raw("c") == TENSORS["c"]).all()
    assert found.read("b").dtype == np.float32


def test_old_names_of_norms_are_those_of_today(tmp_path):
    """But not where the new name is there as well."""
    (tmp_path / "config.json").write_text("{}")
    names = ("a.LayerNorm.gamma", "a.LayerNorm.beta", "b.LayerNorm.gamma", "b.LayerNorm.weight")
    tensors = {name: np.full(1, n, np.float32) for n, name in enumerate(names)}
    save_file({**tensors, "c.gamma": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")

    found = Checkpoint(tmp_path)

    assert set(found.tensors) == {"a.LayerNorm.weight", "a.LayerNorm.bias", *names[2:], "c.gamma"}
    assert found.read("a.LayerNorm.bias") == 1
    assert found.read("b.LayerNorm.weight") == 3


def test_bfloat16_is_widened_exactly(tmp_path):
    values = np.array([[1.0, -2.5, 3.140625e-3]], np.float32)
    bits = (values.view(np.uint32) >> 16).astype(np.uint16)
    exact = (bits.astype(np.uint32) << 16).view(np.float32)
    path = file_with(tmp_path / "model.safetensors", {"w": entry("BF16", (1, 3), (0, 6))}, 6)
    path.write_bytes(path.read_bytes()[:-6] + bits.tobytes())
    (tmp_path / "config.json").write_text("{}")

    assert (Checkpoint(tmp_path).read("w") == exact).all()


def test_row_blocks_cover_all_rows():
    blocks = list(row_blocks((10, 1 << 21)))

    assert blocks == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10)]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_tensor_and_row(checkpoint, bad):
    values = TENSORS["a"].copy()
    values[2, 1] = bad
    save_file({"a": values}, checkpoint / "model.safetensors")

    with pytest.raises(CheckpointError, match="tensor a holds NaN or infinity in row 2"):
        Checkpoint(checkpoint).read("a")


@pytest.mark.parametrize(
    ("entries", "data_bytes", "message"),
    [
        ({"w": entry()}, 15, "ends at byte 16 of 15"),
        ({"w": entry()}, 17, "1 bytes belong to no tensor"),
        ({"w": entry(offsets=(0, 12))}, 12, "takes 16 bytes, its data_offsets span 12"),
        ({"w": entry(offsets=(4, 20))}, 20, "leaves a hole"),
        ({"w": entry(), "v": entry(offsets=(8, 24))}, 24, "overlaps"),
        ({"w": entry(offsets=(16, 0))}, 16, "are no data_offsets"),
        ({"w": entry(offsets=(-16, 0))}, 16, "are no data_offsets"),
        ({"w": entry(shape=(-2, -2))}, 16, "is no shape"),
        ({"w": entry(shape=(1,) * 9, offsets=(0, 4))}, 4, "is no shape"),
        ({"w": entry(shape=(2**40, 2**40))}, 16, "takes 4835703278458516698824704 bytes"),
        ({"w": entry(dtype="F4")}, 16, "unknown dtype 'F4'"),
        ({"w": [1, 2]}, 16, "is no object"),
        ([1, 2], 0, "the header is no JSON object"),
    ],
)
def test_header_lies_are_refused(tmp_path, entries, data_bytes, message):
    path = file_with(tmp_path / "model.safetensors", entries, data_bytes)

    with pytest.raises(CheckpointError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot hold"),
        (b"\x10\0\0", "cannot hold"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"\xff" * 16, "cannot hold"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "cannot hold"),
        ((4).to_bytes(8, "little") + b"{{{{", "is not JSON"),
        ((18).to_bytes(8, "little") + b'{"a": {}, "a": {}}', "occurs twice"),
        ((20000).to_bytes(8, "little") + b"[" * 20000, "is not JSON"),
    ],
)
def test_damaged_headers_are_refused(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)

    with pytest.raises(CheckpointError, match=message):
        read_header(tmp_path / "model.safetensors")


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_change_of_the_file_is_read_or_refused(tmp_path, data):
    """Whatever happens to the bytes, all that comes out lies inside the file, or is our error."""
    content = bytearray(save(TENSORS))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = (
        content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content
    )
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(content))
    try:
        tensors = read_header(path)
    except CheckpointError as error:
        assert str(path) in str(error)  # noqa: PT017
        return
    for tensor in tensors.values():
        assert 8 <= tensor.offset <= len(content)


def write_index(path, weight_map):
    (path / "model.safetensors").unlink(missing_ok=True)
    (path / "config.json").write_text("{}")
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_shards_are_found_by_the_index(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
    save_file({"b": TENSORS["b"]}, tmp_path / "two.safetensors")
    write_index(tmp_path, {"a": "one.safetensors", "b": "two.safetensors"})
    found = Checkpoint(tmp_path)

    assert (found.read("a") == TENSORS["a"]).all()
    assert (found.read("b") == TENSORS["b"]).all()


@pytest.mark.parametrize(
    ("shard", "message"),
    [
        ("gone.safetensors", "shard is missing"),
        ("../one.safetensors", "leads out of the checkpoint"),
        ("/etc/passwd", "leads out of the checkpoint"),
        ("sub\\one.safetensors", "leads out of the checkpoint"),
        ("..", "leads out of the checkpoint"),
        (7, "a string is needed"),
    ],
)
def test_shard_names_stay_inside(tmp_path, shard, message):
    write_index(tmp_path, {"a": shard})

    with pytest.raises(CheckpointError, match=message):
        Checkpoint(tmp_path)


def test_a_tensor_that_its_shard_lacks_is_named(tmp_path):
    save_file({"a": TENSORS["a"]}, tmp_path / "one.safetensors")
    write_index(tmp_path, {"z": "one.safetensors"})

    with pytest.raises(CheckpointError, match=r"tensor z is not in the shard one\.safetensors"):
        Checkpoint(tmp_path)


def test_missing_parts_are_named(tmp_path, checkpoint):
    with pytest.raises(CheckpointError, match="tensor z is missing"):
        Checkpoint(checkpoint).tensor("z")
    with pytest.raises(CheckpointError, match="no such directory"):
        Checkpoint(tmp_path / "nothing")
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="only safetensors are read"):
        Checkpoint(checkpoint)
    (checkpoint / "config.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"config\.json: not JSON"):
        Checkpoint(checkpoint)


def test_a_bundle_is_no_checkpoint(checkpoint):
    (checkpoint / "model.safetensors").rename(checkpoint / "weights.bin")
    (checkpoint / "manifest.json").write_text("{}")

    with pytest.raises(CheckpointError, match="is a bundle; give the checkpoint"):
        Checkpoint(checkpoint)

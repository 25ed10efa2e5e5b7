from pathlib import Path

from edgellm.runtime.inspection import inspect_bundle


def test_operators_tensors_and_sizes_are_those_of_the_bundle(random_bundle: Path) -> None:
    result = inspect_bundle(random_bundle)
    layers = result.manifest.num_hidden_layers
    counts = {op.op_type: op.count for op in result.ops}

    assert counts["BitLinear"] == 5 * layers
    assert counts["GatedBitLinear"] == counts["ColumnBitLinear"] == layers
    assert counts["Attention"] == layers
    assert counts["LogitsHead"] == 1
    assert [op.count for op in result.ops] == sorted(counts.values(), reverse=True)
    files = [path for path in random_bundle.rglob("*") if path.is_file()]
    own = (random_bundle / "manifest.json").stat().st_size
    assert result.total_bytes == sum(path.stat().st_size for path in files) - own
    tensors = sum(tensor.bytes for tensor in result.tensors)
    assert 0 < result.weight_bytes_per_token < tensors
    # 2 layers, 2 heads of 16 int8 codes and an int32, keys and values, 64 positions.
    assert result.cache_bytes == 2 * 2 * (16 + 4) * 2 * 64

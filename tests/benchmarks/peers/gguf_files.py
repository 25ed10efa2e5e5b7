"""Models for llama.cpp: GGUF files of the llama architecture, random or from a checkpoint.

All matrices of a random model hold the same blocks over and over: the speed of a kernel does not
depend on the weights, the reading from memory does not see that they are equal.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.benchmarks.peers.shapes import ModelShape

POOL_COLUMNS = 256 * 27
POOL_ROWS = 64
SCALE = 0.02
"""Of the weights: activations of a random model stay finite."""
HEADS = {"F32": "F32", "Q8_0": "Q8_0"}
HEAD = "Q6_K"
"""What llama-quantize makes of tied embeddings, where HEADS does not say otherwise."""
SCALES_OF_K_BLOCKS = {"Q2_K": (80, 82), "Q6_K": (208,)}
"""Offsets in a block of its float16 scales; the other bytes may be anything."""

Array = npt.NDArray[np.generic]
Tensors = Iterator[tuple[str, tuple[int, int], str]]


def write_random(path: Path, shape: ModelShape, kind: str) -> None:
    """Write random weights of a shape; ``kind`` is a block format of GGUF, such as TQ2_0."""
    matrices = [(name, size, kind) for name, size in matrix_sizes(shape)]
    matrices.append(("token_embd", (shape.vocabulary, shape.hidden), HEADS.get(kind, HEAD)))
    pools = {used: block_pool(used) for _, _, used in matrices}
    writer = header(path, shape, context=4096, rope_base=10000.0)
    norms = dict.fromkeys(norm_names(shape), np.ones(shape.hidden, np.float32))
    for name, norm in norms.items():
        writer.add_tensor_info(name, norm.shape, norm.dtype, norm.nbytes)
    for name, size, used in matrices:
        declare(writer, f"{name}.weight", size, used)
    begin_data(writer)
    for norm in norms.values():
        writer.write_tensor_data(norm)
    for _, size, used in matrices:
        writer.write_tensor_data(np.resize(pools[used], tensor_bytes(size, used)))
    writer.close()


def write_checkpoint(path: Path, shape: ModelShape, kind: str, checkpoint: Path) -> None:
    """Write a Llama checkpoint in F32 or Q8_0; what has no whole blocks becomes F16, as there."""
    from gguf import GGMLQuantizationType, quants
    from safetensors.numpy import load_file

    tensors = load_file(checkpoint / "model.safetensors")
    writer = header(path, shape, context=512, rope_base=10000.0)
    for name, source in checkpoint_names(shape).items():
        values = tensors[source].astype(np.float32)
        if name.endswith(("attn_q.weight", "attn_k.weight")):
            values = interleaved(values, shape.hidden // shape.heads)
        if values.ndim == 1 or kind == "F32":
            writer.add_tensor(name, values)
        elif values.shape[1] % 32:
            writer.add_tensor(name, values.astype(np.float16))
        else:
            kind_of_gguf = GGMLQuantizationType[kind]
            writer.add_tensor(name, quants.quantize(values, kind_of_gguf), raw_dtype=kind_of_gguf)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def header(path: Path, shape: ModelShape, *, context: int, rope_base: float):
    """Return a GGUFWriter with the sizes of a model, and no tokenizer."""
    from gguf import GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(shape.layers)
    writer.add_context_length(context)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.feed_forward)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(rope_base)
    writer.add_rope_dimension_count(shape.hidden // shape.heads)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_tokenizer_model("none")
    return writer


def begin_data(writer) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()


def declare(writer, name: str, size: tuple[int, int], kind: str) -> None:
    from gguf import GGMLQuantizationType

    raw = GGMLQuantizationType[kind]
    row_bytes = tensor_bytes(size, kind) // size[0]
    writer.add_tensor_info(name, (size[0], row_bytes), np.dtype(np.uint8), size[0] * row_bytes, raw)


def tensor_bytes(size: tuple[int, int], kind: str) -> int:
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return size[0] * size[1] // block * block_bytes


def block_pool(kind: str) -> npt.NDArray[np.uint8]:
    """Return the bytes of many random blocks: ternary weights, or any codes with a small scale."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

    rng = np.random.default_rng(0)
    if kind not in SCALES_OF_K_BLOCKS:
        weights = rng.integers(-1, 2, (POOL_ROWS, POOL_COLUMNS)).astype(np.float32) * SCALE
        return quants.quantize(weights, GGMLQuantizationType[kind]).view(np.uint8).ravel()
    block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    count = POOL_ROWS * POOL_COLUMNS // block
    blocks = rng.integers(0, 256, (count, block_bytes), np.uint8)
    scale = np.frombuffer(np.float16(SCALE / 1000).tobytes(), np.uint8)
    for offset in SCALES_OF_K_BLOCKS[kind]:
        blocks[:, offset : offset + 2] = scale
    return blocks.ravel()


def matrix_sizes(shape: ModelShape) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yield (name, (rows, columns)) of the matrices of the layers."""
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_q", (shape.hidden, shape.hidden)
        yield f"blk.{layer}.attn_k", (shape.kv_width, shape.hidden)
        yield f"blk.{layer}.attn_v", (shape.kv_width, shape.hidden)
        yield f"blk.{layer}.attn_output", (shape.hidden, shape.hidden)
        yield f"blk.{layer}.ffn_gate", (shape.feed_forward, shape.hidden)
        yield f"blk.{layer}.ffn_up", (shape.feed_forward, shape.hidden)
        yield f"blk.{layer}.ffn_down", (shape.hidden, shape.feed_forward)


def norm_names(shape: ModelShape) -> Iterator[str]:
    for layer in range(shape.layers):
        yield f"blk.{layer}.attn_norm.weight"
        yield f"blk.{layer}.ffn_norm.weight"
    yield "output_norm.weight"


def checkpoint_names(shape: ModelShape) -> dict[str, str]:
    """Return the checkpoint's name of each tensor of the file."""
    names = {
        "token_embd.weight": "model.embed_tokens.weight",
        "output_norm.weight": "model.norm.weight",
    }
    parts = {
        "attn_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    }
    for layer in range(shape.layers):
        for ours, theirs in parts.items():
            names[f"blk.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    return names


def interleaved(weight: Array, head_dim: int) -> Array:
    """Order the rows of q or k for rotary pairs side by side; transformers pairs the halves."""
    heads = weight.reshape(-1, 2, head_dim // 2, weight.shape[1])
    return np.ascontiguousarray(heads.swapaxes(1, 2)).reshape(weight.shape)

"""The packed Hugging Face layout of a BitNet b1.58 checkpoint: write it, and read it back.

Four ternary values share a byte. With R = outputs / 4, output row `i * R + r` sits in bits 2i and
2i + 1 of packed row r, as value + 1. `weight_scale` multiplies.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from tokenizers import Tokenizer
from torch import Tensor, nn
from train_data import END
from train_model import BitLinear, BitNet, ModelConfig, ternarise

VALUES_PER_BYTE = 4


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message.content }}"
    "{% if not loop.last %} {% endif %}{% endfor %}"
)
"""A story teller does not answer: it goes on from all that was said."""


def pack(codes: Tensor) -> Tensor:
    """Codes in {-1, 0, 1} [outputs, inputs] -> uint8 [outputs / 4, inputs]."""
    planes = (codes + 1).to(torch.uint8).view(VALUES_PER_BYTE, -1, codes.shape[1])
    shifts = 2 * torch.arange(VALUES_PER_BYTE, dtype=torch.uint8)
    return (planes << shifts[:, None, None]).sum(0, dtype=torch.uint8)


def unpack(packed: Tensor) -> Tensor:
    """uint8 [outputs / 4, inputs] -> codes in {-1, 0, 1} as float32 [outputs, inputs]."""
    shifts = 2 * torch.arange(VALUES_PER_BYTE, dtype=torch.uint8)
    return ((packed[None] >> shifts[:, None, None] & 3).float() - 1).flatten(0, 1)


def packed_tensors(model: BitNet) -> dict[str, Tensor]:
    """All tensors of the packed file: uint8 codes, and bfloat16 for everything else."""
    tensors = {}
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            codes, scale = ternarise(module.weight.detach())
            tensors[f"{name}.weight"] = pack(codes)
            tensors[f"{name}.weight_scale"] = scale.bfloat16().view(1)
    for name, parameter in model.named_parameters():
        if name not in tensors:
            tensors[name] = parameter.detach().bfloat16()
    return tensors


def write_checkpoint(model: BitNet, tokenizer: Tokenizer, directory: Path) -> None:
    """Write weights, configuration and tokenizer so that transformers can load `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = save(packed_tensors(model), metadata={"format": "pt"})
    (directory / "model.safetensors").write_bytes(weights)
    tokenizer.save(str(directory / "tokenizer.json"))
    end = tokenizer.token_to_id(END)
    ids = {"bos_token_id": end, "eos_token_id": end}
    config = {
        "architectures": ["BitNetForCausalLM"],
        "model_type": "bitnet",
        **asdict(model.config),
        "hidden_act": "relu2",
        "initializer_range": 0.02,
        "attention_bias": False,
        "attention_dropout": 0.0,
        **ids,
        "tie_word_embeddings": True,
        "use_cache": True,
        "torch_dtype": "bfloat16",
        "quantization_config": {
            "quant_method": "bitnet",
            "linear_class": "autobitlinear",
            "quantization_mode": "offline",
            "modules_to_not_convert": None,
        },
    }
    names = {"bos_token": END, "eos_token": END}
    write_json(directory / "config.json", config)
    write_json(directory / "generation_config.json", {**ids, "do_sample": False})
    write_json(directory / "special_tokens_map.json", names)
    write_json(
        directory / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "add_bos_token": True,
            "add_eos_token": False,
            **names,
            "clean_up_tokenization_spaces": False,
            "model_max_length": model.config.max_position_embeddings,
            "chat_template": CHAT_TEMPLATE,
        },
    )


def write_json(path: Path, value: object) -> None:
    """Write `value` as indented JSON with a final newline."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_checkpoint(directory: Path) -> tuple[BitNet, Tokenizer]:
    """Read a packed checkpoint as a float32 model that computes exactly what the file says."""
    values = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    model = BitNet(ModelConfig(**{k: values[k] for k in ModelConfig.__dataclass_fields__}))
    tensors = load_file(directory / "model.safetensors")
    for name, module in model.named_modules():
        if isinstance(module, BitLinear):
            module.weight_scale = tensors.pop(f"{name}.weight_scale").float()
            tensors[f"{name}.weight"] = unpack(tensors[f"{name}.weight"])
    # strict: a missing or unknown tensor is an error
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()}, strict=True)
    freeze(model)
    return model, Tokenizer.from_file(str(directory / "tokenizer.json"))


def freeze(model: nn.Module) -> None:
    """Mark every parameter as not trainable."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)

"""A small Llama-style teacher: writes stories in batches, and scores text.

Sequence-level distillation needs nothing but the teacher's *text*, so the student may have another
tokenizer. The teacher is any Hugging Face Llama directory that is small enough to be sampled on a
CPU; one key/value cache of fixed size serves every batch.

A teacher that was trained on a stream of stories, with the beginning-of-sequence id as the only
separator, is not stopped at that id: it goes on with the next story, and no row of the batch idles.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tokenizers import Tokenizer


@dataclass(frozen=True)
class TeacherConfig:
    """The part of a Llama `config.json` that the forward pass needs."""

    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    bos_token_id: int

    @classmethod
    def read(cls, path: Path) -> TeacherConfig:
        """Read `config.json`; keys that the forward pass does not use are ignored."""
        values = json.loads(path.read_text(encoding="utf-8"))
        values.setdefault("rope_theta", (values.get("rope_parameters") or {}).get("rope_theta"))
        return cls(**{name: values[name] for name in cls.__dataclass_fields__})


class Teacher:
    """A Llama model in float32 that decodes a batch with a key/value cache."""

    def __init__(self, directory: Path) -> None:
        self.config = TeacherConfig.read(directory / "config.json")
        self.tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        self.weights = {k: v.float() for k, v in load_file(directory / "model.safetensors").items()}
        self.head_dim = self.config.hidden_size // self.config.num_attention_heads
        self.cos, self.sin = self._rotary_tables()
        self.cache: list[tuple[torch.Tensor, torch.Tensor]] = []

    def reset(self, batch: int) -> None:
        """Make an empty cache of `[batch, kv heads, positions, head dim]` for every layer."""
        config = self.config
        shape = (batch, config.num_key_value_heads, config.max_position_embeddings, self.head_dim)
        self.cache = [
            (torch.zeros(shape), torch.zeros(shape)) for _ in range(config.num_hidden_layers)
        ]

    @torch.inference_mode()
    def forward(self, ids: torch.Tensor, start: int) -> torch.Tensor:
        """Run `ids` [batch, length] at positions from `start` on; logits [batch, length, vocab]."""
        embedding = self.weights["model.embed_tokens.weight"]
        hidden = embedding[ids]
        for layer in range(self.config.num_hidden_layers):
            normed = self._norm(hidden, f"model.layers.{layer}.input_layernorm")
            hidden = hidden + self._attention(normed, layer, start)
            normed = self._norm(hidden, f"model.layers.{layer}.post_attention_layernorm")
            gate = F.silu(self._linear(normed, f"model.layers.{layer}.mlp.gate_proj"))
            inner = gate * self._linear(normed, f"model.layers.{layer}.mlp.up_proj")
            hidden = hidden + self._linear(inner, f"model.layers.{layer}.mlp.down_proj")
        head = self.weights.get("lm_head.weight", embedding)
        return F.linear(self._norm(hidden, "model.norm"), head)

    def score(self, ids: torch.Tensor) -> torch.Tensor:
        """Logits [batch, length, vocab] of whole texts `ids` [batch, length], from position 0."""
        self.reset(len(ids))
        return self.forward(ids, 0)

    def _attention(self, normed: torch.Tensor, layer: int, start: int) -> torch.Tensor:
        """Causal grouped-query attention of [batch, length, hidden] over cache and itself."""
        batch, length, _ = normed.shape
        prefix = f"model.layers.{layer}.self_attn"
        query, key, value = (
            self._linear(normed, f"{prefix}.{name}").view(batch, length, -1, self.head_dim)
            for name in ("q_proj", "k_proj", "v_proj")
        )
        end = start + length
        keys, values = self.cache[layer]
        keys[:, :, start:end] = self._rotate(key, start).transpose(1, 2)
        values[:, :, start:end] = value.transpose(1, 2)
        # Grouped heads read the same keys: fold the group into the rows of one batched product.
        groups = self.config.num_key_value_heads
        query = self._rotate(query, start).view(batch, length, groups, -1, self.head_dim)
        query = query.permute(0, 2, 3, 1, 4).reshape(batch, groups, -1, self.head_dim)
        scores = query @ keys[:, :, :end].transpose(2, 3) / math.sqrt(self.head_dim)
        if length > 1:
            causal = torch.ones(length, end, dtype=torch.bool).tril(start)
            scores.view(batch, groups, -1, length, end).masked_fill_(~causal, -math.inf)
        mixed = torch.softmax(scores, -1) @ values[:, :, :end]
        mixed = mixed.view(batch, groups, -1, length, self.head_dim).permute(0, 3, 1, 2, 4)
        return self._linear(mixed.reshape(batch, length, -1), f"{prefix}.o_proj")

    def _linear(self, values: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(values, self.weights[f"{name}.weight"])

    def _norm(self, values: torch.Tensor, name: str) -> torch.Tensor:
        weight = self.weights[f"{name}.weight"]
        return F.rms_norm(values, weight.shape, weight, self.config.rms_norm_eps)

    def _rotary_tables(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Cosine and sine [positions, 1, head dim / 2] of the half-rotation form."""
        frequency = self.config.rope_theta ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        angle = torch.arange(self.config.max_position_embeddings)[:, None] * frequency
        return angle.cos()[:, None], angle.sin()[:, None]

    def _rotate(self, values: torch.Tensor, start: int) -> torch.Tensor:
        """Rotate [batch, length, heads, head dim] by position."""
        end = start + values.shape[1]
        cos, sin = self.cos[start:end], self.sin[start:end]
        first, second = values.chunk(2, -1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), -1)


def sample_rows(
    teacher: Teacher, batch: int, temperature: float, top_p: float, generator: torch.Generator
) -> torch.Tensor:
    """Sample `batch` rows of ids, each as long as the teacher's context: [batch, positions]."""
    length = teacher.config.max_position_embeddings
    teacher.reset(batch)
    rows = torch.full((batch, length), teacher.config.bos_token_id)
    for position in range(length - 1):
        logits = teacher.forward(rows[:, position : position + 1], position)[:, -1]
        weights = torch.softmax(logits / temperature, -1)
        if top_p < 1.0:
            ordered, order = weights.sort(-1, descending=True)
            ordered[ordered.cumsum(-1) - ordered >= top_p] = 0.0
            weights = torch.zeros_like(weights).scatter_(1, order, ordered)
        # argmax(p / Exp(1)) is a draw from p, and cheaper than torch.multinomial.
        noise = torch.empty_like(weights).exponential_(generator=generator)
        rows[:, position + 1] = (weights / noise).argmax(-1)
    return rows


def split_rows(teacher: Teacher, rows: torch.Tensor) -> Iterator[tuple[str, bool]]:
    """Cut rows at the separator and decode: (text, whether the story reached its end)."""
    bos = teacher.config.bos_token_id
    for row in rows.tolist():
        starts = [index for index, token in enumerate(row) if token == bos]
        for start, end in zip(starts, [*starts[1:], None], strict=True):
            text = teacher.tokenizer.decode(row[start:end]).strip()
            if text:
                yield text, end is not None

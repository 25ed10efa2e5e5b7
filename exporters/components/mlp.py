"""The gated feed-forward block, up to down_proj."""

from edgellm.exporters.components.decoder_config import DecoderConfig
from edgellm.exporters.lowering.interface import Lowering, V


def gated_mlp(net: Lowering[V], path: str, x: V, config: DecoderConfig) -> V:
    """Return act(gate_proj(x)) * up_proj(x): the input of down_proj."""
    shape = (config.intermediate_size, config.hidden_size)
    gate = net.linear(f"{path}.gate_proj", x, shape)
    # relu(gate)^2 is 0 where the gate is not positive, whatever up is.
    only_where = gate if config.hidden_act == "relu2" else None
    up = net.linear(f"{path}.up_proj", x, shape, gate=only_where)
    return net.gate(f"{path}.act_fn", gate, up, config.hidden_act)

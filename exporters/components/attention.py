"""Grouped-query attention with rotary positions."""

from edgellm.exporters.lowering.interface import Heads, Lowering, V


def attention(net: Lowering[V], path: str, x: V, hidden_size: int, heads: Heads) -> V:
    """Return the heads of one layer, side by side: the input of o_proj.

    Args:
        net: what the steps become.
        path: such as ``model.layers.0.self_attn``.
        x: the normalised residual stream.
        hidden_size: width of x.
        heads: their number, width and window; bias and norms as the architecture has them.
    """
    dim, bias = heads.head_dim, heads.has_bias
    width, shared = heads.num_attention_heads * dim, heads.num_key_value_heads * dim
    query = net.linear(f"{path}.q_proj", x, (width, hidden_size), bias=bias)
    key = net.linear(f"{path}.k_proj", x, (shared, hidden_size), bias=bias)
    value = net.linear(f"{path}.v_proj", x, (shared, hidden_size), bias=bias)
    if heads.has_norms:
        query = net.head_norm(f"{path}.q_norm", query, dim)
        key = net.head_norm(f"{path}.k_norm", key, dim)
    query = net.rotary(f"{path}.query", query, heads)
    key = net.rotary(f"{path}.key", key, heads)
    return net.attention(path, query, key, value, heads)

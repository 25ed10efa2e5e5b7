"""The ``quantization_config`` of config.json: which linears are ternary."""

from dataclasses import dataclass

from edgellm.config import JsonFields
from edgellm.errors import UnsupportedModelError

LINEAR_CLASSES = ("bitlinear", "autobitlinear")
MODES = ("offline", "online")


@dataclass(frozen=True)
class BitNetQuantization:
    """Ternary linears as transformers' BitNet integration defines them."""

    linear_class: str
    quantization_mode: str
    modules_to_not_convert: tuple[str, ...]

    def converts(self, path: str) -> bool:
        """Return whether a linear such as ``model.layers.0.mlp.up_proj`` is ternary."""
        return not any(
            path == name or path.startswith(f"{name}.") or path.endswith(name)
            for name in self.modules_to_not_convert
        )

    @property
    def scale_divides(self) -> bool:
        """Whether a stored ``weight_scale`` is 1 / mean|W| rather than mean|W|."""
        return self.linear_class == "bitlinear"

    @property
    def scales_bias(self) -> bool:
        """Whether ``weight_scale`` multiplies the bias too, as in transformers' AutoBitLinear."""
        return self.linear_class == "autobitlinear" and self.quantization_mode == "offline"


def read_quantization(config: JsonFields) -> BitNetQuantization | None:
    """Return the ternary quantisation of a checkpoint, None for ordinary float weights.

    Raises:
        UnsupportedModelError: another method, or RMSNorms inside the linears.
    """
    fields = config.section("quantization_config")
    if fields is None:
        return None
    method = fields.text("quant_method", "bitnet")
    if method != "bitnet":
        raise UnsupportedModelError(
            f"{fields.where}: quant_method {method!r} is not supported; allowed is 'bitnet': "
            "export the checkpoint that was quantised instead"
        )
    if fields.flag("use_rms_norm", default=False):
        raise UnsupportedModelError(
            f"{fields.where}: use_rms_norm true (a norm inside every linear) is not supported"
        )
    linear_class = fields.text("linear_class", "bitlinear")
    mode = fields.text("quantization_mode", "offline")
    for name, value, allowed in (
        ("linear_class", linear_class, LINEAR_CLASSES),
        ("quantization_mode", mode, MODES),
    ):
        if value not in allowed:
            raise UnsupportedModelError(
                f"{fields.where}: {name} {value!r} is unknown; known are {', '.join(allowed)}"
            )
    return BitNetQuantization(linear_class, mode, tuple(fields.texts("modules_to_not_convert")))

"""NEON with dot products (Cortex-A76 and later: Raspberry Pi 5, phones): 16 an instruction."""

from edgellm.runtime.kernels.simd._unit import Builder, Value, Values, call
from edgellm.runtime.kernels.simd.neon import Neon


class NeonDotprod(Neon):
    """``sdot``: to each int32 lane, add four products of signed bytes."""

    features = ("neon", "dotprod")
    rank = 30
    adds_fours = True
    multiplies_lane = True
    looks_up_ternary = False

    def dot_codes(self, builder: Builder, total: Value, codes: Values, x: Values) -> Value:
        return self.dot_bytes(builder, total, codes, x)

    def dot_lanes(self, builder: Builder, total: Value, codes: Value, x: Value) -> Value:
        return self.dot_bytes(builder, total, [codes], [x])

    def dot_bytes(self, builder: Builder, total: Value, weights: Values, x: Values) -> Value:
        for weight, activation in zip(weights, x, strict=True):
            parts = [total, weight, activation]
            total = call(builder, "llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, parts)
        return total

    def biased(self, builder: Builder, weights: Values) -> list[Value]:
        return list(weights)


UNIT = NeonDotprod()

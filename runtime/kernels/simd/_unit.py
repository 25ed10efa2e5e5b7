"""What a vector unit can do, as the tiles of ``_tiles`` use it: one subclass an instruction set.

Everything here emits LLVM IR; a vector holds ``lanes`` int32, or four times as many bytes.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from edgellm.runtime.cpu import Cpu
from edgellm.runtime.kernels.simd import _trits

INT8 = ir.IntType(8)
INT16 = ir.IntType(16)
INT32 = ir.IntType(32)
INT64 = ir.IntType(64)

BLOCK = 64
"""Columns a step: one block of the layout ternary-2bit/v1, 16 bytes of it."""
DOT_CHAINS = 12
"""Sums that the measurement of the peak keeps: they hide its latency and fit in the registers."""
SWAPS = ((7, 0x00AA00AA00AA00AA), (14, 0x0000CCCC0000CCCC), (28, 0x00000000F0F0F0F0))
"""How 8 x 8 bits are turned: bits of these masks change places with those so much higher."""
TRITS = 5
"""Weights in a byte of the layout ternary-5trit/v1."""
ROW_OPERATORS = frozenset(
    {"ActivationQuantize", "LayerNormQuantize", "RequantizeBias", "ResidualAddBias", "SiluGate"}
)
"""Operators whose variants are made of ``vector/_lanes``."""

# llvmlite and Numba have no types.
Builder = Any
Context = Any
Intrinsic = Any
Type = Any
Value = Any
Values = Sequence[Value]


class VectorUnit(ABC):
    """The instructions of a kind of processor.

    Attributes:
        machines: names of the processor family, as ``platform.machine()`` gives them.
        features: LLVM's names of what the processor must have.
        rank: among the units that a machine has, the one of highest rank is used.
        lanes: int32 values in a vector.
        ternary_shifts: for each 128 bits of a vector, how far ``ternary_codes`` has its codes
            shifted left: the sums are shifted right by as much.
        nibble_shifts: the same of ``nibble_codes``.
        bit_shifts: the same of ``bit_codes``, for each of as many equal parts of a vector.
        ternary_bias: what ``ternary_codes`` and ``trit_codes`` add to a weight.
        trit_shifts: how far each of the five groups of ``trit_codes`` is shifted left.
        looks_up_ternary: whether ternary weights are multiplied faster by look-ups in bytes (see
            ``vector/_ternary_look_ups``) than as they are.
        reads_trits_fast: whether one token runs faster on ternary-5trit/v1 than on ternary-2bit/v1
            where the weights come from memory.
        byte_bias: what ``dot_bytes`` adds to a weight.
        tokens: of a tile that is for many: its sums, TILE_ROWS * tokens, stay in registers.
        adds_fours: whether ``dot_codes`` adds to lane i the products of bytes 4i..4i+3, of one
            vector, in one instruction (VNNI, ``sdot``). Many tokens then run on panels of weights
            (see ``vector/_panels``). Others multiply pairs: they have ``dot_words``,
            ``word_pairs``, ``word_factors``, ``add_words``, ``dot_int16``, ``add_row_pair`` and,
            where words are not multiplied, ``scale_words``.
        multiplies_words: whether int8 are best multiplied as words, neighbours by ``dot_int16``.
        multiplies_lane: whether ``dot_codes`` takes one lane of activations for all at no cost.
        matrix_tiles: whether panels are multiplied with AMX (see ``vector/_amx``).
        base: the unit whose variants run where this one has none.
        has_int32_rows: whether operators between products have variants (see ``vector/_lanes``).
            That takes ``look_up_ints``; with 16 lanes EncoderAttention takes ``shift_words_right``.
        operators: of which it has some of its own; None is all.
        turns_bits: whether ``turn_bits`` is an instruction; then planes of bits are multiplied as
            bytes, which is faster than to look them up.
        widens_halves: whether ``widen`` gives the lower and the upper half of a vector, else the
            lanes of even and of odd numbers.
        looks_up_words: whether it has ``look_up_words``, and ``dot_int16``.
        looks_up_eights: whether it has ``look_up_8``; others have ``look_up_64``.
        column_shifts: how far left ``column_codes`` leaves the codes of each of the four fields.
    """

    machines: tuple[str, ...]
    features: tuple[str, ...]
    rank: int
    lanes: int
    ternary_shifts: tuple[int, ...]
    nibble_shifts: tuple[int, ...] = (0,)
    bit_shifts: tuple[int, ...] = (0,)
    ternary_bias = 1
    trit_shifts: tuple[int, ...] = (0,) * TRITS
    looks_up_ternary = False
    reads_trits_fast = False
    byte_bias = 0
    tokens: int
    adds_fours = False
    multiplies_words = False
    multiplies_lane = False
    matrix_tiles = False
    turns_bits = False
    widens_halves = False
    base = ""
    has_int32_rows = False
    looks_up_words = False
    looks_up_eights = False
    operators: frozenset[str] | None = None
    column_shifts: tuple[int, ...] = (0, 2, 4, 6)

    def runs_on(self, cpu: Cpu) -> bool:
        """Tell whether a processor has this unit."""
        return cpu.machine in self.machines and all(map(cpu.has, self.features))

    def has_own(self, op_type: str) -> bool:
        """Tell whether an operator runs otherwise than with ``base``, or the portable kernel."""
        if op_type in ROW_OPERATORS and not self.has_int32_rows:
            return False
        return self.operators is None or op_type in self.operators

    @abstractmethod
    def ternary_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return the codes of 64 columns, in their order, from the 16 bytes at ``packed``."""

    def trit_codes(self, builder: Builder, packed: Value) -> list[list[Value]]:
        """Return five groups of vectors, each the codes of 64 columns, from 64 bytes at ``packed``.

        Group p has column 64p + b from byte b.
        """
        vectors = self.byte_vectors(builder, packed)
        codes = [self.spread_trits(builder, vector) for vector in vectors]
        return [list(group) for group in zip(*codes, strict=True)]

    def spread_trits(self, builder: Builder, packed: Value) -> list[Value]:
        """Return the five codes of each byte of a vector, each code in a vector of its own."""
        fours, lasts = self.unpack_trits(builder, packed)
        three = splat(packed.type, 3)
        shifted = [builder.lshr(fours, splat(packed.type, shift)) for shift in (2, 4)]
        codes = [builder.and_(part, three) for part in (fours, *shifted)]
        return [*codes, *(builder.lshr(part, splat(packed.type, 6)) for part in (fours, lasts))]

    def unpack_trits(self, builder: Builder, packed: Value) -> tuple[Value, Value]:
        """Return the fours and the lasts of a vector of bytes, see ``_trits``."""
        kind = packed.type
        low = builder.and_(packed, splat(kind, 7))
        high = builder.and_(builder.lshr(packed, splat(kind, 3)), splat(kind, 7))
        usual = builder.or_(
            self._look_up(builder, _trits.PAIRS * 2, low),
            self._look_up(builder, [pair << 4 for pair in _trits.PAIRS] * 2, high),
        )
        nibble = builder.and_(packed, splat(kind, 15))
        others = self._look_up(builder, _trits.RARE_FOURS, nibble)
        twos = builder.icmp_unsigned(">=", packed, splat(kind, _trits.TWOS))
        others = builder.select(twos, splat(kind, _trits.ALL_TWOS), others)
        lasts = builder.select(
            twos, builder.shl(packed, splat(kind, 6)), builder.shl(packed, splat(kind, 2))
        )
        rare = builder.icmp_unsigned(">=", packed, splat(kind, _trits.RARE))
        return builder.select(rare, others, usual), builder.select(rare, lasts, packed)

    @abstractmethod
    def nibble_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return the nibbles of 64 columns, in their order, from the 32 bytes at ``packed``."""

    @abstractmethod
    def bit_codes(self, builder: Builder, packed: Value) -> list[Value]:
        """Return one bit of each of 64 columns, in their order, from the 8 bytes at ``packed``."""

    def turn_bits(self, builder: Builder, vector: Value) -> Value:
        """Turn 8 x 8 bits, of every 8 bytes: bit i of byte j is what bit j of byte 7 - i was."""
        count = vector.type.count
        reverse = [8 * (i // 8) + 7 - i % 8 for i in range(count)]
        words_type = ir.VectorType(INT64, count // 8)
        words = builder.bitcast(shuffle(builder, vector, vector, reverse), words_type)
        for distance, bits in SWAPS:
            shift = splat(words_type, distance)
            changed = builder.xor(words, builder.lshr(words, shift))
            changed = builder.and_(changed, splat(words_type, bits))
            words = builder.xor(words, builder.xor(changed, builder.shl(changed, shift)))
        return builder.bitcast(words, vector.type)

    @abstractmethod
    def dot_codes(self, builder: Builder, total: Value, codes: Values, x: Values) -> Value:
        """Add to each lane of ``total`` products of codes (0 to 15, shifted) and activations.

        There are at most eight vectors of each.
        """

    @property
    def dot_blocks(self) -> int:
        """How many blocks of codes ``dot_codes`` takes, if it adds them up in 16 bits first."""
        return 1 if self.adds_fours else 8 * 4 * self.lanes // BLOCK

    @abstractmethod
    def dot_bytes(self, builder: Builder, total: Value, weights: Values, x: Values) -> Value:
        """Add to each lane of ``total`` products of int8 weights (+ byte_bias) and activations."""

    def dot_levels(self, builder: Builder, total: Value, levels: Values, x: Values) -> Value:
        """Add to each lane of ``total`` products of int8 levels (+ byte_bias) and activations."""
        return self.dot_codes(builder, total, levels, x)

    @abstractmethod
    def shuffle_bytes(self, builder: Builder, table: Value, keys: Value) -> Value:
        """Return ``table[key]`` for each byte of keys, 0 to 15, in each 16 bytes of a vector."""

    def look_up_nibbles(self, builder: Builder, table: Sequence[int], keys: Value) -> Value:
        """Return ``table[key]``, 16 bytes, by the lowest four bits of each byte of keys."""
        return self._look_up(builder, table, builder.and_(keys, splat(keys.type, 15)))

    def add_byte_pairs(self, builder: Builder, total: Value, found: Value) -> Value:
        """Add to each 16 bits of ``total`` two neighbours of unsigned bytes."""
        pairs = builder.bitcast(found, total.type)
        lower = builder.and_(pairs, splat(total.type, 255))
        return builder.add(total, builder.add(lower, builder.lshr(pairs, splat(total.type, 8))))

    def look_up_8(self, builder: Builder, table: Sequence[int], indices: Value) -> Value:
        """Return the entry of 8 int32 that the lowest three bits of each lane choose."""
        raise NotImplementedError

    def look_up_64(self, builder: Builder, table: Sequence[int], indices: Value) -> Value:
        """Return ``table[index]`` for each lane of int32, of 64 entries of 16 bits."""
        raise NotImplementedError

    def widen(self, builder: Builder, vector: Value) -> list[Value]:
        """Return a vector of int32 as two of int64, see ``widens_halves``; ``narrow`` undoes it.

        The lanes of even and of odd numbers take no instruction of their own.
        """
        pairs = builder.bitcast(vector, ir.VectorType(INT64, self.lanes // 2))
        bits = splat(pairs.type, 32)
        return [builder.ashr(builder.shl(pairs, bits), bits), builder.ashr(pairs, bits)]

    def narrow(self, builder: Builder, halves: Values) -> Value:
        """Return two vectors of int64, each element 0 to 2^32 - 1, as one of int32."""
        even, odd = halves
        both = builder.or_(even, builder.shl(odd, splat(odd.type, 32)))
        return builder.bitcast(both, self.totals_type)

    def multiply_words(self, builder: Builder, a: Value, b: Value) -> Value:
        """Return the products of two vectors of int64, each element 0 to 2^32 - 1."""
        word = splat(a.type, 2**32 - 1)
        return builder.mul(builder.and_(a, word), builder.and_(b, word))

    def _look_up(self, builder: Builder, table: Sequence[int], keys: Value) -> Value:
        tables = constant_bytes([*table] * (keys.type.count // len(table)))
        return self.shuffle_bytes(builder, tables, keys)

    @property
    def bytes_type(self) -> Type:
        """A vector of bytes."""
        return ir.VectorType(INT8, 4 * self.lanes)

    @property
    def totals_type(self) -> Type:
        """A vector of int32."""
        return ir.VectorType(INT32, self.lanes)

    def byte_vectors(self, builder: Builder, pointer: Value) -> list[Value]:
        """Load the 64 bytes at ``pointer``."""
        width = 4 * self.lanes
        return [
            load_vector(builder, move(builder, pointer, INT64(begin)), self.bytes_type)
            for begin in range(0, BLOCK, width)
        ]

    @property
    def int8_columns(self) -> int:
        """How many int8 ``int8_vector`` loads."""
        return 4 * self.lanes

    def int8_vector(self, builder: Builder, pointer: Value) -> Value:
        """Load int8, weights or activations, as ``dot_bytes`` takes them."""
        return load_vector(builder, pointer, self.bytes_type)

    def int8_vectors(self, builder: Builder, pointer: Value) -> list[Value]:
        """Load 64 of them."""
        begins = (move(builder, pointer, INT64(k)) for k in range(0, BLOCK, self.int8_columns))
        return [self.int8_vector(builder, begin) for begin in begins]

    def column_codes(self, builder: Builder, packed: Value, field: int) -> Value:
        """Return bits 2 * field and 2 * field + 1 of each byte, shifted by ``column_shifts``."""
        return builder.and_(packed, splat(packed.type, 3 << 2 * field))

    def signed_field(self, builder: Builder, packed: Value, field: int) -> Value:
        """Return bits 2 * field and 2 * field + 1 of each byte, less 1, as ternary weights are."""
        raise NotImplementedError

    def dot_lanes(self, builder: Builder, total: Value, codes: Value, x: Value) -> Value:
        """Add to lane i the products of bytes 4i..4i+3, where fours are added."""
        return self.dot_codes(builder, total, [codes], [x])

    def dot_words(self, builder: Builder, words: Value, first: Value, second: Value) -> Value:
        """Add two products to each of 16 bits: of codes (or, without words, int8) and of int8."""
        raise NotImplementedError

    def word_pairs(self, builder: Builder, a: Value, b: Value) -> list[Value]:
        """Return bytes of both so that ``dot_words`` adds to a word one byte of each.

        The first vector is of the lower 8 bytes of every 128 bits, the second of the upper ones.
        """
        raise NotImplementedError

    def word_factors(self, builder: Builder, x: Value, first: int) -> Value:
        """Return what multiplies such a pair: elements ``first`` and the next one of x."""
        raise NotImplementedError

    def scale_words(self, builder: Builder, words: Value, factor: Value) -> Value:
        """Return int32 lanes: neighbours of 16 bits times a factor, 16 bits twice, added up."""
        raise NotImplementedError

    def dot_int16(self, builder: Builder, total: Value, a: Value, b: Value) -> Value:
        """Add to each lane two products of int16."""
        raise NotImplementedError

    def look_up_words(self, builder: Builder, tables: Values, keys: Value) -> Value:
        """Return what the lowest bits of words choose of one vector of words, or of two."""
        raise NotImplementedError

    def add_words(self, builder: Builder, total: Value, words: Value) -> Value:
        """Add to each int32 lane two neighbours of 16 bits."""
        raise NotImplementedError

    def add_row_pair(
        self, builder: Builder, sums: Sequence[Values], rows: Values, words: Values
    ) -> None:
        """Add two rows of 16 int8, times the two int16 of each query in words, to its sums."""
        raise NotImplementedError

    def settle_row_pair(self, builder: Builder, sums: Values) -> list[Value]:
        """Return the sums of ``add_row_pair`` in the order of the columns."""
        return list(sums)

    def shift_words_right(self, builder: Builder, words: Value, counts: Value) -> Value:
        """Return unsigned words shifted by as many bits as others say; by 16 and more, 0."""
        raise NotImplementedError

    def look_up_ints(self, builder: Builder, table: Value, places: Value) -> Value:
        """Return the int32 at places of the table at a pointer."""
        raise NotImplementedError

    def biased(self, builder: Builder, weights: Values) -> list[Value]:
        """Return vectors of int8 weights + byte_bias, as ``dot_codes`` takes them."""
        raise NotImplementedError


def call(builder: Builder, name: str, result: Type, arguments: Values) -> Value:
    """Call the LLVM intrinsic ``name``."""
    kind = ir.FunctionType(result, [argument.type for argument in arguments])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.call(function, arguments)


def move(builder: Builder, pointer: Value, distance: Value) -> Value:
    """Return a byte pointer ``distance`` bytes further on."""
    return builder.gep(pointer, [distance], source_etype=INT8)


def load_vector(builder: Builder, pointer: Value, kind: Type) -> Value:
    """Load a vector from any address."""
    return builder.load(builder.bitcast(pointer, kind.as_pointer()), align=1)


def splat(kind: Type, value: int) -> Value:
    """Return a constant vector of equal elements."""
    return ir.Constant(kind, [value] * kind.count)


def shuffle(builder: Builder, a: Value, b: Value, indices: Sequence[int]) -> Value:
    """Return the chosen elements of a followed by b."""
    mask = ir.Constant(ir.VectorType(INT32, len(indices)), list(indices))
    return builder.shuffle_vector(a, b, mask)


def splat_value(builder: Builder, value: Value, count: int) -> Value:
    """Return a vector of ``count`` times a value."""
    kind = ir.VectorType(value.type, count)
    first = builder.insert_element(ir.Constant(kind, ir.Undefined), value, INT32(0))
    return shuffle(builder, first, first, [0] * count)


def constant_bytes(values: Sequence[int]) -> Value:
    """Return a constant vector of bytes."""
    return ir.Constant(ir.VectorType(INT8, len(values)), list(values))


def repeat(builder: Builder, vector: Value, times: int) -> Value:
    """Return ``vector`` several times in a row."""
    if times == 1:
        return vector
    return shuffle(builder, vector, vector, [*range(vector.type.count)] * times)


def per_quarter(kind: Type, values: Sequence[int]) -> Value:
    """Return a constant vector of as many equal parts as there are values."""
    each = kind.count // len(values)
    return ir.Constant(kind, [value for value in values for _ in range(each)])

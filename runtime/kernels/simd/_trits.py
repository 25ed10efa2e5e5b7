"""Tables for ternary weights packed five a byte, the layout ternary-5trit/v1.

Codes are weight + 1. Four of the five come out of a byte as another byte, of two bits each: the
``fours``. The fifth is in the upper two bits of a third byte, the ``lasts``, whose other bits are
anything. A byte below RARE is two bits of the last code, three of the second pair of codes and
three of the first; a pair of twos has no three bits, and makes a byte from RARE on.
"""

RARE = 192
TWOS = 240
"""From here on both pairs are twos."""
ALL_TWOS = 0b10101010

PAIRS = tuple(pair % 3 | pair // 3 << 2 for pair in range(8))
"""Two codes from three bits."""
RARE_FOURS = (*(pair | 0b1010 << 4 for pair in PAIRS), *(0b1010 | pair << 4 for pair in PAIRS))
"""Four codes from the lower four bits of a byte from RARE up to TWOS."""

FOURS_64 = tuple(PAIRS[low] | PAIRS[high] << 4 for high in range(8) for low in range(8))
"""The fours of each byte below RARE by its lower six bits."""
RARE_FOURS_64 = RARE_FOURS * 3 + (ALL_TWOS,) * 16
"""The same of each byte from RARE on."""
RARE_LASTS_64 = tuple((i >> 4 if i < TWOS - RARE else i & 3) << 6 for i in range(64))

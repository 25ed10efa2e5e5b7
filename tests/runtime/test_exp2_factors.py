"""The two tables whose products are the entries of the softmax's, where tables have 8 entries."""

from edgellm.ops._attention import EXP2_TABLE
from edgellm.runtime.kernels.vector._softmax_tiles import (
    EIGHTHS,
    PRODUCT_BITS,
    PRODUCT_ROUNDING,
    SIXTY_FOURTHS,
)


def test_products_are_all_entries_and_fit_in_32_bits():
    products = [a * b + PRODUCT_ROUNDING for a in EIGHTHS for b in SIXTY_FOURTHS]

    assert [product >> PRODUCT_BITS for product in products] == EXP2_TABLE.tolist()
    assert max(products) < 2**32

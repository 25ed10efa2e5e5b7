import pytest

from edgellm.errors import PlanError
from edgellm.ops import OpSchema, Port, evaluate_dim


def schema(*dims):
    return OpSchema("Made", (Port("x", "int8", ("A", "B", "C")),), (Port("y", "int8", dims),))


@pytest.mark.parametrize(
    ("expression", "shape", "size"),
    [
        ("A+B", (2, 3, 1), 5),
        ("A*B+C", (2, 3, 1), 7),
        ("A*B", ("images", 196, 1), "images*196"),
        ("A*B+C", ("images", 1, "images*196"), "images*197"),
        ("A+B", ("past", "tokens", 1), "past+tokens"),
        ("A+B", ("tokens", 3, 1), "tokens+3"),
    ],
)
def test_sums_and_products_of_sizes(expression, shape, size):
    assert schema(expression).infer([shape]) == [(size,)]


def test_a_product_of_two_unknown_sizes_is_refused():
    with pytest.raises(PlanError, match=r"A\*B multiplies"):
        schema("A*B").infer([("images", "tokens", 1)])


@pytest.mark.parametrize(
    ("dim", "value"), [(5, 5), ("images*197", 394), ("images", 2), ("images+past*3+1", 33)]
)
def test_a_size_by_the_sizes_of_its_names(dim, value):
    assert evaluate_dim(dim, {"images": 2, "past": 10}) == value

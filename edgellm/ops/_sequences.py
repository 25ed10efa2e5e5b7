"""ONNX nodes over rows of several sequences, one after the other: ``ends`` says where each ends."""

from edgellm.ops._body import Value


def sequence_of_rows(x: Value, ends: Value) -> Value:
    """Return (T, 1) int64: the number of the sequence that each row of x belongs to."""
    row = x.body.range(x.body.constant(0), x.count(0))
    return (ends.unsqueeze(0) <= row.unsqueeze(1)).to("int64").row_sum()


def members(sequence: Value, ends: Value) -> Value:
    """Return (B, 1, T) bool: which rows belong to which sequence; sequence is (T, 1)."""
    number = ends.body.range(ends.body.constant(0), ends.count(0))
    return sequence.equals(number.unsqueeze(0)).transpose(1, 0).unsqueeze(1)


def column_sums(x: Value, inside: Value, ends: Value) -> Value:
    """Return (B, N): sums over the rows of each sequence; x is (T, N) int64."""
    columns = x.transpose(1, 0).unsqueeze(0)  # (1, N, T)
    total = x.body.where(inside, columns, 0).row_sum()
    return total.reshape(ends.size(0), x.size(1))


def column_peaks(x: Value, inside: Value, ends: Value) -> Value:
    """Return (B, N): the largest magnitude of each column in each sequence; x is (T, N) int64."""
    columns = x.abs().transpose(1, 0).unsqueeze(0)
    peak = x.body.where(inside, columns, 0).row_max()
    return peak.reshape(ends.size(0), x.size(1))


def means(x: Value, inside: Value, ends: Value, offset: int) -> Value:
    """Return (B, N): the mean of each column in each sequence, half up; |x| < offset."""
    length = inside.to("int64").row_sum().reshape(-1, 1)
    total = column_sums(x + offset, inside, ends)
    return (total + length // 2) // length - offset

"""The first tensor that differs between two traces, told from both sides."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tiny_transformer.course.naming import Axes, place_of_largest, relation
from tiny_transformer.course.trace import (
    Record,
    close,
    first_telling,
    right_way_up,
    share_of_largest,
    unexplained,
)


def tell_first(
    got: Sequence[Record], wanted: Sequence[Record], axes: Axes, tolerance: float
) -> list[str]:
    """Return lines on the first tensor that one side has and the other has not.

    Args:
        got: somebody's operations.
        wanted: the reference's.
        axes: names them.
        tolerance: what still counts as equal, see `close`.
    """
    ours, theirs = (
        unexplained(wanted, got, tolerance),
        unexplained(got, wanted, tolerance),
    )
    masks = [
        {tuple(side[i].value.shape) for i in places if side[i].value.dtype == torch.bool}
        for side, places in ((wanted, ours), (got, theirs))
    ]
    first = first_telling(ours, wanted, masks[1])
    second = first_telling(theirs, got, masks[0])
    details: list[str] = []
    if first is not None:
        details.append(
            "the first tensor of the reference that none of yours equals: "
            + _tell(wanted[first], axes)
        )
        before = _last_agreeing(wanted, got, first, tolerance)
        if before is None:
            details.append("before it there is nothing")
        else:
            told = f"; yours: {before.where}" if before.where else ""
            details.append(f"until then they agree: {_tell(before, axes)}{told}")
    if second is not None:
        record = got[second]
        told = f"; {record.where}" if record.where else ""
        details.append(
            f"the first of yours that the reference has not: {_tell(record, axes)}{told}"
        )
        against = _partner(record, [wanted[i] for i in ours])
        if against is not None:
            value = right_way_up(record.value, against.value)
            if value is not record.value:
                details.append(
                    "your mask is of what is hidden, the reference's of what is seen; turned:"
                )
            details.append(place_of_largest(value, against.value, axes))
            details += relation(record.value, against.value, axes)
    return details


def _tell(record: Record, axes: Axes) -> str:
    return f"{record.name} in {record.module or 'the model'}, {axes.shape(record.value.shape)}"


def _last_agreeing(
    records: Sequence[Record], others: Sequence[Record], index: int, tolerance: float
) -> Record | None:
    """Return the tensor that a record was made from, or the last before it, that agrees: theirs."""
    for place in [*reversed(records[index].parents), *reversed(range(index))]:
        value = records[place].value
        for other in others:
            same_shape = other.value.shape == value.shape and value.is_floating_point()
            if same_shape and close(other.value, value, tolerance):
                return other
    return None


def _partner(record: Record, candidates: Sequence[Record]) -> Record | None:
    """Return the reference's tensor that stands where `record` stands: same shape, same module."""
    fitting = [
        one
        for one in candidates
        if one.value.shape == record.value.shape
        and one.module == record.module
        and one.value.is_floating_point() == record.value.is_floating_point()
    ]
    return min(fitting, key=lambda one: share_of_largest(record.value, one.value), default=None)

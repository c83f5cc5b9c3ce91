"""What an update counts for by how late it is."""


def share_of(late: int, exponent: float, hinge: int | None) -> float:
    """Weight, at most 1, of an update from ``late`` versions ago.

    With ``hinge``, an update counts fully until it is later than that.
    """
    if hinge is None:
        return float((1.0 + late) ** -exponent)
    return 1.0 / (exponent * max(0, late - hinge) + 1.0)

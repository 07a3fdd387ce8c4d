"""The classes of several data sets of one run must be the same."""

from __future__ import annotations

from collections.abc import Sequence

from mrssl.config import ConfigError
from mrssl.data import Dataset
from mrssl.data.labels import ClassValues


def check_same_classes(
    where: str, dataset: Dataset, names: Sequence[str], values: Sequence[ClassValues]
) -> None:
    """See that a data set names and numbers its classes as the one before it in a run.

    Args:
        where: what messages call it.
        dataset: of which the classes alone count.
        names: of the one before, in the order of the category ids; none if it is the first.
        values: likewise, label value, or values, of each class.

    Raises:
        ConfigError: it does not: the same number would mean two classes.
    """
    if names and list(names) != dataset.class_names:
        raise ConfigError(
            f"{where}: its classes {dataset.class_names} are not those of the data set before, "
            f"{names}"
        )
    if values and list(values) != dataset.class_values:
        raise ConfigError(
            f"{where}: its labels {dataset.class_values} are not those of the data set before, "
            f"{values}, for {', '.join(names)}"
        )


__all__ = ["check_same_classes"]

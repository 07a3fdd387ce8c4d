"""The classes of the data sets of one run, and of a checkpoint, must be the same."""

from __future__ import annotations

from collections.abc import Sequence

from mrssl.checkpoint import Provenance
from mrssl.config import ConfigError
from mrssl.data import Dataset
from mrssl.data.labels import ClassValues, values_of_class


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
        ConfigError: it does not: the same number would mean two classes; or a name cannot be
            printed, which nobody would read from a checkpoint.
    """
    for name in dataset.class_names:
        if not name.isprintable():
            raise ConfigError(
                f"{where}: the name of its class {name!a} has a character that cannot be printed"
            )
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


def class_differences(
    trained: Provenance, names: Sequence[str], values: Sequence[ClassValues], *, where: str
) -> list[str]:
    """Compare the classes of a checkpoint whose heads are kept with those of the data.

    A class is its place in the logits: in another order, or by other names, it would be scored
    or trained as another. Label values only say which voxels of a label volume are meant.

    Args:
        trained: what the checkpoint says of itself; without class names it is not compared.
        names: of the data, in the order of the category ids.
        values: likewise, label value, or values, of each class.
        where: the checkpoint, for messages.

    Returns:
        One line where the label values differ, else none.

    Raises:
        ConfigError: the classes have other names, or stand in another order.
    """
    there, here = list(trained.class_names), list(names)
    if there and there != here:
        raise ConfigError(f"{where}: its classes {there} are not those of the data, {here}")
    known = [tuple(values_of_class(v)) for v in trained.class_values]
    if known and known != [tuple(values_of_class(v)) for v in values]:
        return [
            f"{where}: trained with the labels {list(trained.class_values)} for "
            f"{', '.join(there)}, now they are {list(values)}"
        ]
    return []


def check_types(trained: Provenance, names: Sequence[str], *, where: str) -> None:
    """Raise :class:`ConfigError` where a checkpoint, ``where``, was trained on other distortions.

    As many of other names would be scored as these.
    """
    if trained.type_names and list(trained.type_names) != list(names):
        raise ConfigError(
            f"{where}: trained on other types than MRSSL.PRETEXT.DISTORTIONS names: "
            f"{', '.join(trained.type_names)}"
        )


__all__ = ["check_same_classes", "check_types", "class_differences"]

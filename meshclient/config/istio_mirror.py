"""``mirror``, ``mirrors`` and their percentages.

Reads them; no request is copied here.
"""

from __future__ import annotations

from dataclasses import dataclass

from meshclient.config.istio_destination import Destination, read_destination
from meshclient.config.istio_fault import read_percentage
from meshclient.config.reader import Reader
from meshclient.model.matching import Fraction

_ALL = Fraction(100)


@dataclass(frozen=True, slots=True)
class Mirrors:
    """Where copies go and how often; a share of zero is left out."""

    targets: tuple[tuple[Destination, Fraction], ...] = ()


def read_mirrors(entry: Reader, namespace: str, domain: str) -> Mirrors | None:
    """The mirrors of one ``http[]`` entry, None when it names none."""
    single = entry.field("mirror")
    several = entry.field("mirrors")
    fraction = _read_percentage(entry)
    if single is not None and several is not None:
        entry.error("HTTP route cannot contain both mirror and mirrors", code="exclusive")
    if single is not None:
        target = (read_destination(single, namespace, domain), fraction or _ALL)
        return Mirrors(_non_zero([target]))
    if several is None:
        return None
    found = [_read_one(element, namespace, domain) for element in several.elements()]
    targets = [target for target in found if target is not None]
    return Mirrors(_non_zero(targets))


def _non_zero(
    targets: list[tuple[Destination, Fraction]],
) -> tuple[tuple[Destination, Fraction], ...]:
    return tuple(target for target in targets if target[1].numerator)


def _read_percentage(entry: Reader) -> Fraction | None:
    percentage = entry.field("mirrorPercentage")
    percent = entry.field("mirrorPercent", "mirror_percent")
    if percent is not None:
        percent.warning(
            "mirrorPercent is deprecated", code="IST0002", suggestion="use mirrorPercentage"
        )
    if percentage is not None:
        return read_percentage(percentage)
    return Fraction(percent.integer(0, 100) or 0) if percent is not None else None


def _read_one(element: Reader, namespace: str, domain: str) -> tuple[Destination, Fraction] | None:
    destination = element.field("destination")
    percentage = element.field("percentage")
    fraction = read_percentage(percentage) if percentage is not None else _ALL
    element.finish("mirrors")
    if destination is None:
        element.error("destination is missing", code="required")
        return None
    return read_destination(destination, namespace, domain), fraction

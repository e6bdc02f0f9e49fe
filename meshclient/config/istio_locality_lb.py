"""``localityLbSetting``: checked as Istio's validation does.

Nothing acts on localities here. Source: Istio
``pkg/config/validation validateLocalityLbSetting``.
"""

from __future__ import annotations

from meshclient.config.reader import Reader

_CODE = "locality"


def check_locality_setting(block: Reader) -> Reader | None:
    """Check the block; its ``failover`` when given, for it needs outlier detection."""
    enabled = block.field("enabled")
    if enabled is not None:
        enabled.boolean()
    distribute = block.field("distribute")
    failover = block.field("failover")
    priority = block.field("failoverPriority")
    block.finish("localityLbSetting")
    if distribute is not None and (failover is not None or priority is not None):
        block.error(
            "can not simultaneously specify 'distribute' and 'failover' or 'failover_priority'",
            code=_CODE,
        )
    for entry in distribute.elements() if distribute is not None else ():
        _check_distribute(entry)
    for entry in failover.elements() if failover is not None else ():
        _check_failover(entry)
    if priority is not None:
        priority.strings()
    return failover if failover is not None else priority


def _check_distribute(entry: Reader) -> None:
    source = entry.field("from")
    targets = entry.field("to")
    entry.finish("distribute")
    if source is not None:
        source.string()
    total = 0
    weights = list(targets.items()) if targets is not None else []
    for locality, weight in weights:
        value = weight.integer()
        if value is None:
            continue
        if not 1 <= value <= 100:
            weight.error("locality weight must be in range [1, 100]", code=_CODE)
        if not locality:
            weight.error("locality must not be empty", code=_CODE)
        total += value
    if total != 100:
        entry.error(f"total locality weight {total} != 100", code=_CODE)


def _check_failover(entry: Reader) -> None:
    names: list[str] = []
    for key in ("from", "to"):
        field = entry.field(key)
        text = (field.string() or "") if field is not None else ""
        if field is not None and ("*" in text or "/" in text):
            field.error(f'locality "{text}" must be a region, without wildcard', code=_CODE)
        names.append(text)
    entry.finish("failover")
    if names[0] == names[1]:
        entry.error("locality failover settings must specify different regions", code=_CODE)

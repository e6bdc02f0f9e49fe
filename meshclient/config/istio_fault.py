"""``fault`` blocks, and percentages as Istio writes them.

Reads and translates; nothing is injected here.
"""

from __future__ import annotations

from meshclient.config.reader import Reader
from meshclient.model.grpc_status import GRPC_STATUS
from meshclient.model.matching import Fraction
from meshclient.model.routes import Fault

_MILLION = 1_000_000


def read_percentage(block: Reader) -> Fraction:
    """``{value: 0.1}`` in percent: 0, or 0.0001 to 100. Envoy's unit is a millionth."""
    field = block.field("value")
    block.finish("percentage")
    value = field.number() if field is not None else 0.0
    if value is None:
        return Fraction(0, _MILLION)
    if value != 0 and not 0.0001 <= value <= 100:
        block.error(
            f"percentage {value:g} is neither 0.0, nor in range [0.0001, 100.0]",
            code="percentage",
        )
    # Truncated, as Istio's translatePercentToFractionalPercent does.
    return Fraction(int(max(0.0, value) * 10_000), _MILLION)


def read_fault(block: Reader) -> Fault:
    """``fault: {delay, abort}``. A part without percentage never fires."""
    delay = block.field("delay")
    abort = block.field("abort")
    block.finish("fault")
    if delay is None and abort is None:
        block.error("HTTP fault injection must have an abort and/or a delay", code="fault")
    delay_s, delay_fraction = _read_delay(delay) if delay is not None else (None, Fraction(0))
    status, grpc, fraction = _read_abort(abort) if abort is not None else (None, None, Fraction(0))
    return Fault(delay_s, delay_fraction, status, grpc, fraction, source=block.source)


def _read_delay(block: Reader) -> tuple[float | None, Fraction]:
    fixed = block.field("fixedDelay")
    exponential = block.field("exponentialDelay")
    percent = block.field("percent")
    fraction = _read_fraction(block)
    block.finish("delay")
    if exponential is not None:
        exponential.error("exponentialDelay not supported yet", code="fault")
    elif fixed is None:
        block.error("fixedDelay is missing", code="required")
    if percent is not None:
        percent.warning("percent is deprecated", code="IST0002", suggestion="use percentage")
        if fraction is None:
            fraction = Fraction(percent.integer(0, 100) or 0)
    return (fixed.go_duration() if fixed is not None else None), _or_never(block, fraction)


def _read_abort(block: Reader) -> tuple[int | None, int | None, Fraction]:
    http = block.field("httpStatus")
    grpc = block.field("grpcStatus")
    fraction = _read_fraction(block)
    if block.field("http2Error") is not None:
        block.error("http2Error is not supported", code="fault")
    block.finish("abort")
    if http is not None and grpc is not None:
        block.error("only one of httpStatus and grpcStatus may be given", code="fault")
    if http is None and grpc is None:
        block.error("httpStatus or grpcStatus is missing", code="required")
    status = http.integer(200, 599) if http is not None else None
    return status, _read_grpc(grpc), _or_never(block, fraction)


def _read_grpc(field: Reader | None) -> int | None:
    name = field.string() if field is not None else None
    if field is None or name is None:
        return None
    if name not in GRPC_STATUS:
        field.error(f'gRPC status "{name}" is not supported', code="fault")
    return GRPC_STATUS.get(name)


def _read_fraction(block: Reader) -> Fraction | None:
    field = block.field("percentage")
    return read_percentage(field) if field is not None else None


def _or_never(block: Reader, fraction: Fraction | None) -> Fraction:
    if fraction is not None:
        return fraction
    block.warning(
        "without percentage this fault never fires",
        code="fault-never-fires",
        suggestion="add percentage: {value: 100}",
    )
    return Fraction(0)

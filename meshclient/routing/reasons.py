"""Why a route did not match, in a short sentence for people.

Slow on purpose: it tests every condition again. The data path never calls it.
"""

from __future__ import annotations

from collections.abc import Iterator

from meshclient.model.matching import (
    CookieMatch,
    HeaderMatch,
    PathMatch,
    QueryMatch,
    RouteMatch,
    StringMatch,
)
from meshclient.routing.match import (
    cookie_test,
    fraction_test,
    header_test,
    is_grpc,
    path_test,
    query_condition,
)
from meshclient.routing.view import RequestView, header_values

_WANTED = {
    "exact": "exactly {}",
    "prefix": "a value starting with {}",
    "suffix": "a value ending with {}",
    "contains": "a value containing {}",
    "regex": "a value matching the regex {}",
}
_PATH_FAULT = {
    "exact": "is not {}",
    "prefix": "does not start with {}",
    "segment_prefix": "is not {} or below it",
    "regex": "does not match the regex {}",
}
#: Longest request text quoted in a sentence.
_QUOTE = 80


def reason(match: RouteMatch, view: RequestView) -> str:
    """The first condition that fails, the path before the others; "" if none does."""
    return next(_failures(match, view), "")


def _failures(match: RouteMatch, view: RequestView) -> Iterator[str]:
    if match.path is not None and not path_test(match.path)(view):
        yield _path_reason(match.path, view)
    for header in match.headers:
        if not header_test(header)(view):
            yield _header_reason(header, view)
    for query in match.query:
        if not query_condition(query).test(view):
            yield _query_reason(query, view)
    for cookie in match.cookies:
        if not cookie_test(cookie)(view):
            yield _cookie_reason(cookie, view)
    if match.grpc and not is_grpc(view):
        yield "not a gRPC request (content-type is not application/grpc)"
    if match.fraction is not None and not fraction_test(match.fraction)(view):
        yield (
            f"outside the runtime fraction {match.fraction.numerator}/{match.fraction.denominator}"
        )


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _QUOTE else text[: _QUOTE - 3] + "...")


def _wanted(value: StringMatch) -> str:
    text = _WANTED[value.kind].format(_quoted(value.value))
    return f"{text}, case ignored" if value.ignore_case and value.kind != "regex" else text


def _path_reason(path: PathMatch, view: RequestView) -> str:
    fault = _PATH_FAULT[path.kind].format(path.value)
    case = ", case ignored" if path.ignore_case and path.kind != "regex" else ""
    shown = view.path if len(view.path) <= _QUOTE else view.path[: _QUOTE - 3] + "..."
    return f"path {shown} {fault}{case}"


def _header_reason(match: HeaderMatch, view: RequestView) -> str:
    values = header_values(view, match.name.lower())
    state = f"is {', '.join(map(_quoted, values))}" if values else "is missing"
    if match.value is not None:
        wanted = _wanted(match.value)
    elif match.range is not None:
        wanted = f"a number from {match.range[0]} to below {match.range[1]}"
    elif match.present == match.invert:
        return f"header {match.name}: {state}, wanted it absent"
    else:
        return f"header {match.name}: {state}, wanted it present"
    if match.invert:
        wanted = f"anything but {wanted}" if values else f"a value other than {wanted}"
    return f"header {match.name}: {state}, wanted {wanted}"


def _query_reason(match: QueryMatch, view: RequestView) -> str:
    found = view.query().get(match.name)
    state = "is missing" if found is None else f"is {_quoted(found)}"
    if match.value is None:
        wanted = "it present" if match.present else "it absent"
    else:
        wanted = _wanted(match.value)
    return f"query parameter {match.name}: {state}, wanted {wanted}"


def _cookie_reason(match: CookieMatch, view: RequestView) -> str:
    found = view.cookies().get(match.name)
    state = "is missing" if found is None else f"is {_quoted(found)}"
    but = "anything but " if match.invert else ""
    return f"cookie {match.name}: {state}, wanted {but}{_wanted(match.value)}"

"""Redirects and direct responses: the answers a route gives by itself.

Source of the Location: Envoy ``http/utility.cc`` (``newUri``,
``processRequestHost``), checked against Envoy 1.40.
"""

from __future__ import annotations

from meshclient.model.headers import HeaderMap
from meshclient.model.matching import PathMatch
from meshclient.model.request import LocalReply, RequestHead
from meshclient.model.routes import DirectResponse, RedirectAction
from meshclient.routing.rewrite import PathEdit, compile_path_rewrite, rewrite_path

_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


class Redirect:
    """A redirect action, compiled. Raises ``RegexError`` for a bad rewrite."""

    __slots__ = ("_action", "_edit", "_path")

    def __init__(self, action: RedirectAction, match: PathMatch | None) -> None:
        self._action = action
        self._edit: PathEdit | None = None
        if action.path_rewrite is not None:
            self._edit = compile_path_rewrite(action.path_rewrite, match)
        path = action.path
        self._path = path if not path or path.startswith("/") else f"/{path}"

    def location(self, head: RequestHead) -> str:
        """The absolute URL that the caller is sent to. A path rewrite also changes ``head``."""
        action = self._action
        scheme = action.scheme or ("https" if action.https else head.scheme)
        port = "" if action.port is None else f":{action.port}"
        host = action.host or _request_host(head, scheme, replaced=bool(port))
        return f"{scheme}://{host}{port}{self._target(head)}"

    def _target(self, head: RequestHead) -> str:
        if self._edit is not None:
            rewrite_path(head, self._edit)  # in the request itself: response edits see it
        target = head.path
        if self._path:
            if "?" in self._path:  # its own query wins, and strip_query leaves it
                return self._path
            _, mark, query = target.partition("?")
            target = self._path + mark + query
        return target.partition("?")[0] if self._action.strip_query else target


def _request_host(head: RequestHead, scheme: str, replaced: bool) -> str:
    """The request's host, without its port when that is replaced, or was the
    default of the scheme that is being left."""
    host = head.authority
    at = host.rfind("]:") + 1 or -1 if host.startswith("[") else host.rfind(":")
    if at < 0:
        return host
    leaving = scheme != head.scheme and host[at:] == _DEFAULT_PORTS.get(head.scheme)
    return host[:at] if replaced or leaving else host


def redirect_reply(redirect: Redirect, status: int, head: RequestHead) -> LocalReply:
    """An empty answer with a Location."""
    return LocalReply(status, HeaderMap.of([("location", redirect.location(head))]))


_SAME_PLACE = Redirect(RedirectAction(), None)


def direct_reply(action: DirectResponse, head: RequestHead) -> LocalReply:
    """The configured answer; 201 and 3xx carry the request's own URL as Location."""
    headers = HeaderMap([])
    if action.status == 201 or 300 <= action.status < 400:
        headers = HeaderMap.of([("location", _SAME_PLACE.location(head))])
    return LocalReply(action.status, headers, action.body)


def finish_reply(reply: LocalReply, head: RequestHead) -> None:
    """Framing headers, which Envoy sets after the header edits of the route."""
    if reply.body and "content-type" not in reply.headers:
        reply.headers.set("content-type", "text/plain")
    reply.headers.remove("content-length")
    if reply.status >= 200 and reply.status not in (204, 304):
        reply.headers.set("content-length", str(len(reply.body)))
    else:
        reply.body = b""
    if head.method == "HEAD":
        reply.body = b""

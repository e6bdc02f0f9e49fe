"""The control side: documents and discovery become one published snapshot.

Everything here runs on one background thread (or in the constructor of
:class:`Controller`). Nothing here may be on the path of a call except one
attribute read, ``publisher.plane``, and nothing here knows what a plane is
made of: the data plane hands in how to build one.
"""

from meshclient.control.assemble import assemble
from meshclient.control.controller import Controller
from meshclient.control.events import Subscriptions
from meshclient.control.publisher import PlaneLike, Publisher
from meshclient.control.sources import Discoverer
from meshclient.control.thread import ControlThread
from meshclient.control.watcher import watch_paths

__all__ = [
    "ControlThread",
    "Controller",
    "Discoverer",
    "PlaneLike",
    "Publisher",
    "Subscriptions",
    "assemble",
    "watch_paths",
]

"""Policy documents (files or parsed data) to the model, with positions in every message.

The front door is :mod:`meshclient.config.load`; nothing here is imported by
``import meshclient``.
"""

from meshclient.config.load import load_documents, load_paths

__all__ = ["load_documents", "load_paths"]

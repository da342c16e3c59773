"""What a buffer is for, as JSON and back."""

from __future__ import annotations

import uuid

import cattrs


def converter() -> cattrs.Converter:
    """What makes JSON of targets and back."""
    made = cattrs.Converter(forbid_extra_keys=True)
    made.register_unstructure_hook(uuid.UUID, str)
    made.register_structure_hook(uuid.UUID, lambda value, _: uuid.UUID(value))
    return made

"""Write rows: COPY encoded for the columns' types, any shape of rows, sync and async.

>>> from pgscale import write                                                        # doctest: +SKIP
>>> write.copy(connection, "public.events", [{"user_id": 1, "type": "click"}]).rows  # doctest: +SKIP
1
"""

from pgscale.write.copying import CopyResult, acopy, copy
from pgscale.write.failures import WriteFailedError
from pgscale.write.model import RowError
from pgscale.write.rules import RULES, Rule
from pgscale.write.upserting import UpsertResult, aupsert, upsert

__all__ = [
    "RULES",
    "CopyResult",
    "RowError",
    "Rule",
    "UpsertResult",
    "WriteFailedError",
    "acopy",
    "aupsert",
    "copy",
    "upsert",
]

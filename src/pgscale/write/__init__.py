"""Write rows: COPY encoded for the columns' types, any shape of rows, sync and async.

>>> from pgscale import write                                                        # doctest: +SKIP
>>> write.copy(connection, "public.events", [{"user_id": 1, "type": "click"}]).rows  # doctest: +SKIP
1
"""

from pgscale.write.copying import CopyResult, acopy, copy
from pgscale.write.dead_letters.model import DeadLetter
from pgscale.write.dead_letters.sink import DeadLetters, TooManyDeadLettersError
from pgscale.write.failures import WriteFailedError
from pgscale.write.flowing import Committed, StreamFailedError, StreamResult
from pgscale.write.inserting import InsertResult, ainsert, insert
from pgscale.write.model import RowError
from pgscale.write.ordering import ForeignKey
from pgscale.write.rules import RULES, Rule
from pgscale.write.streaming import astream, stream
from pgscale.write.upserting import UpsertResult, aupsert, upsert

__all__ = [
    "RULES",
    "Committed",
    "CopyResult",
    "DeadLetter",
    "DeadLetters",
    "ForeignKey",
    "InsertResult",
    "RowError",
    "Rule",
    "StreamFailedError",
    "StreamResult",
    "TooManyDeadLettersError",
    "UpsertResult",
    "WriteFailedError",
    "acopy",
    "ainsert",
    "astream",
    "aupsert",
    "copy",
    "insert",
    "stream",
    "upsert",
]

"""Compose the SQL that captures, copies, applies and verifies. Pure: values in, SQL text out."""

from pgscale.livecopy.ddl.capture import (
    capture_objects,
    capture_triggers,
    count_capture,
    drop_capture_objects,
    drop_capture_triggers,
)
from pgscale.livecopy.ddl.comparing import (
    can_walk_keys,
    count_recheck,
    next_keys,
    recheck,
    stream_keys,
    verify_keys,
    verify_source,
    verify_streamed,
    verify_target,
)
from pgscale.livecopy.ddl.log import (
    count_log,
    has_log,
    is_truncated,
    lock_log,
    next_in_log,
    take_truncated,
    truncate_log,
    vacuum_log,
)
from pgscale.livecopy.ddl.moving import (
    apply,
    batch_table,
    copy,
    evict,
    scrub,
    truncate_target,
)
from pgscale.livecopy.ddl.quoting import (
    ident,
    names,
    qualified,
    text,
    trusted,
)
from pgscale.livecopy.ddl.settings import (
    PROBE_BY_KEY,
    disable,
    statement_timeout,
)
from pgscale.livecopy.ddl.tables import (
    file_of,
    lock_against_writers,
    lock_to_read,
    pages_of,
)

__all__ = [
    "PROBE_BY_KEY",
    "apply",
    "batch_table",
    "can_walk_keys",
    "capture_objects",
    "capture_triggers",
    "copy",
    "count_capture",
    "count_log",
    "count_recheck",
    "disable",
    "drop_capture_objects",
    "drop_capture_triggers",
    "evict",
    "file_of",
    "has_log",
    "ident",
    "is_truncated",
    "lock_against_writers",
    "lock_log",
    "lock_to_read",
    "names",
    "next_in_log",
    "next_keys",
    "pages_of",
    "qualified",
    "recheck",
    "scrub",
    "statement_timeout",
    "stream_keys",
    "take_truncated",
    "text",
    "truncate_log",
    "truncate_target",
    "trusted",
    "vacuum_log",
    "verify_keys",
    "verify_source",
    "verify_streamed",
    "verify_target",
]

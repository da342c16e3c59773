"""What differs between a function as a file has it and as the catalog has it. Pure.

Types are compared by OID, so `int` is `integer`. Bodies of SQL and PL/pgSQL are compared by their tokens.
Defaults are kept by the server as trees and written out with its casts, which a file need not have.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest

from pgscale.catalog.functions.model import Argument, Change, Stored, Tokens, TypeName, Written
from pgscale.catalog.functions.parsing import read_definition
from pgscale.catalog.functions.tokens import body_key
from pgscale.core.model import shorten

RECORD = 2249
_MODE_WORDS = {"i": "IN", "o": "OUT", "b": "INOUT", "v": "VARIADIC", "t": "TABLE"}
_TYPE_ALIASES: dict[str, Tokens] = {
    "int": ("integer",),
    "int2": ("smallint",),
    "int4": ("integer",),
    "int8": ("bigint",),
    "float4": ("real",),
    "float8": ("double", "precision"),
    "bool": ("boolean",),
    "varchar": ("character", "varying"),
    "decimal": ("numeric",),
    "timestamptz": ("timestamp", "with", "time", "zone"),
    "timetz": ("time", "with", "time", "zone"),
}
_TYPES_BEFORE_CONSTANTS = frozenset({"date", "interval", "json", "jsonb", "time", "timestamp", "timestamptz", "uuid"})
_TYPE_TAILS = frozenset({"varying", "precision", "with", "without", "time", "zone"})

Types = Mapping[TypeName, int | None]


def read_stored(stored: Stored) -> Written:
    """Read what pg_get_functiondef wrote."""
    assert stored.definition is not None, "aggregates are left out before"
    return read_definition(stored.definition.rstrip("\n"), stored.shown)


def changes(written: Written, types: Types, stored: Stored) -> tuple[Change, ...]:
    """Return everything in which a file's function differs from the catalog's with the same inputs.

    Args:
        types: OIDs of every type that the file names; None for those that do not exist.
    """
    if written.text == (stored.definition or "").rstrip():
        return ()
    catalog = read_stored(stored)
    return (
        *_signature(written, types, stored, catalog),
        *_options(written, catalog),
        *_settings(written, catalog),
        *_body(written, catalog),
    )


def _signature(written: Written, types: Types, stored: Stored, catalog: Written) -> Iterator[Change]:
    if written.kind != catalog.kind:
        yield Change(what="kind", file=written.kind, catalog=catalog.kind)
    modes = stored.modes or ["i"] * len(stored.types)
    names = stored.names or [""] * len(stored.types)
    theirs = list(zip(modes, names, stored.types, strict=True))
    for place, (one, other) in enumerate(zip_longest(written.arguments, theirs), start=1):
        if one is None or other is None or (one.mode, one.name, types[one.type]) != other:
            shown = catalog.arguments[place - 1] if other is not None else None
            yield Change(what=f"argument {place}", file=_shown_argument(one), catalog=_shown_argument(shown))
        elif not _same_default(one.default, catalog.arguments[place - 1].default):
            their_default = catalog.arguments[place - 1].default
            yield Change(what=f"default of argument {place}", file=_shown(one.default), catalog=_shown(their_default))
    if written.kind != "function" or catalog.kind != "function":
        return
    if _result(written, types) != stored.result or written.returns_set != stored.returns_set:
        yield Change(what="result", file=_shown_result(written), catalog=_shown_result(catalog))


def _result(written: Written, types: Types) -> int | None:
    """Return the OID of the type that a function returns; of several OUT arguments it is record."""
    if written.returns is not None:
        return types[written.returns]
    out = [argument for argument in written.arguments if argument.mode in "obt"]
    return types[out[0].type] if len(out) == 1 else RECORD


def _shown_argument(argument: Argument | None) -> str:
    if argument is None:
        return "none"
    mode = "" if argument.mode == "i" else _MODE_WORDS[argument.mode]
    return " ".join(part for part in (mode, argument.name, argument.type.shown) if part)


def _shown_result(written: Written) -> str:
    if written.returns is not None:
        return f"{'SETOF ' if written.returns_set else ''}{written.returns.shown}"
    return "TABLE" if written.returns_set else "of its OUT arguments"


def _shown(tokens: Tokens | None) -> str:
    return "none" if tokens is None else " ".join(tokens)


# Defaults


def _same_default(file: Tokens | None, catalog: Tokens | None) -> bool:
    if file is None or catalog is None:
        return file == catalog
    return file == catalog or _is_written_out(_cast(_bare(file)), _bare(catalog))


def _cast(tokens: Tokens) -> Tokens:
    """Return `interval '1 day'` as `'1 day'::interval`."""
    found: list[str] = []
    for token in tokens:
        if token[0] == "'" and found and found[-1] in _TYPES_BEFORE_CONSTANTS:
            found[-1:] = (token, "::", found[-1])
        else:
            found.append(token)
    return tuple(found)


def _bare(tokens: Tokens) -> Tokens:
    """Return an expression without the parentheses around all of it."""
    while len(tokens) > 1 and tokens[0] == "(" and _closing(tokens) == len(tokens) - 1:
        tokens = tokens[1:-1]
    return tokens


def _closing(tokens: Tokens) -> int:
    depth = 0
    for place, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if depth == 0:
            return place
    return -1


def _is_written_out(file: Tokens, catalog: Tokens) -> bool:
    """Tell whether the catalog's expression is the file's but for what the server adds: casts of constants, schemas."""
    mine, theirs = 0, 0
    while theirs < len(catalog):
        if mine < len(file) and file[mine] == catalog[theirs]:
            if file[mine] == "::":
                # Both have a cast: `::int` and `::integer` are one.
                my_end, their_end = _type_end(file, mine + 1), _type_end(catalog, theirs + 1)
                my_type, their_type = _full(file[mine + 1 : my_end]), _full(catalog[theirs + 1 : their_end])
                if my_type != (their_type if "." in my_type else _unqualified(their_type)):
                    return False
                mine, theirs = my_end, their_end
            else:
                mine, theirs = mine + 1, theirs + 1
        elif catalog[theirs] == "::" and theirs and _is_constant(catalog[theirs - 1]):
            theirs = _type_end(catalog, theirs + 1)
        elif catalog[theirs + 1 : theirs + 3] == (".", *file[mine : mine + 1]):
            # The file leaves the schema to the search_path.
            theirs += 2
        elif file[mine : mine + 1] == ("-",) and catalog[theirs] == f"'-{''.join(file[mine + 1 : mine + 2])}'":
            # -1 is the constant '-1'.
            mine, theirs = mine + 2, theirs + 1
        else:
            return False
    return mine == len(file)


def _unqualified(tokens: Tokens) -> Tokens:
    return tokens[2:] if tokens[1:2] == (".",) else tokens


def _is_constant(token: str) -> bool:
    return token[0] == "'" or token in {"null", "]"}


def _type_end(tokens: Tokens, at: int) -> int:
    at += 1
    while at < len(tokens):
        if tokens[at] == ".":
            at += 2
        elif tokens[at] in _TYPE_TAILS:
            at += 1
        elif tokens[at] in {"(", "["}:
            while at < len(tokens) and tokens[at] not in {")", "]"}:
                at += 1
            at += 1
        else:
            break
    return min(at, len(tokens))


def _full(tokens: Tokens) -> Tokens:
    return tuple(part for token in tokens for part in _TYPE_ALIASES.get(token, (token,)))


# Clauses and body


def _options(written: Written, catalog: Written) -> Iterator[Change]:
    defaults = {"volatility": "volatile", "SECURITY": "invoker", "PARALLEL": "unsafe"}
    if written.language != catalog.language:
        yield Change(what="language", file=written.language, catalog=catalog.language)
    for name in sorted({*written.options, *catalog.options}, key=str.lower):
        default = defaults.get(name, "default" if name in {"COST", "ROWS"} else "no")
        mine, theirs = written.options.get(name, default), catalog.options.get(name, default)
        if name == "SUPPORT" and "." not in mine:
            theirs = theirs.rpartition(".")[2]
        if mine != theirs:
            yield Change(what=name, file=mine, catalog=theirs)


def _settings(written: Written, catalog: Written) -> Iterator[Change]:
    for name in sorted({*written.settings, *catalog.settings}):
        mine, theirs = written.settings.get(name, ()), catalog.settings.get(name, ())
        # SET … FROM CURRENT: whatever it was, it is set.
        if mine != theirs and not (mine is None and theirs):
            yield Change(what=f"SET {name}", file=_shown_setting(mine), catalog=_shown_setting(theirs))


def _shown_setting(values: Tokens | None) -> str:
    return "FROM CURRENT" if values is None else ", ".join(f"'{value}'" for value in values) or "none"


def _body(written: Written, catalog: Written) -> Iterator[Change]:
    if written.sql_body is not None or catalog.sql_body is not None:
        if written.sql_body != catalog.sql_body:
            yield Change(what="body", file=_shown_body(written), catalog=_shown_body(catalog))
        return
    assert written.body is not None
    assert catalog.body is not None
    same = written.body == catalog.body or (
        written.language == catalog.language
        and body_key(written.body, written.language) == body_key(catalog.body, written.language)
    )
    if not same:
        yield Change(what="body", file=_shown_body(written), catalog=_shown_body(catalog))
    if written.link != catalog.link:
        yield Change(what="link symbol", file=written.link or "none", catalog=catalog.link or "none")


def _shown_body(written: Written) -> str:
    return shorten(written.body if written.body is not None else " ".join(written.sql_body or ()))


# Texts


def unified_diff(written: Written, stored: Stored) -> str:
    """Return the lines that differ, from the file's to the catalog's; white space counts where nothing else does."""
    mine, theirs = written.text.splitlines(), (stored.definition or "").splitlines()
    names = (f"{written.file}:{written.line}", f"catalog {stored.shown}")
    for key in (_unspaced, str):
        lines = list(_diff(mine, theirs, key=key))
        if lines:
            return "\n".join((f"--- {names[0]}", f"+++ {names[1]}", *lines))
    return ""


def _unspaced(line: str) -> str:
    return " ".join(line.split())


def _diff(mine: list[str], theirs: list[str], *, key: Callable[[str], str]) -> Iterator[str]:
    matcher = difflib.SequenceMatcher(
        None, [key(line) for line in mine], [key(line) for line in theirs], autojunk=False
    )
    for group in matcher.get_grouped_opcodes(3):
        first, last = group[0], group[-1]
        yield f"@@ -{first[1] + 1},{last[2] - first[1]} +{first[3] + 1},{last[4] - first[3]} @@"
        for tag, mine_from, mine_to, theirs_from, theirs_to in group:
            if tag == "equal":
                yield from (f" {line}" for line in theirs[theirs_from:theirs_to])
            else:
                yield from (f"-{line}" for line in mine[mine_from:mine_to])
                yield from (f"+{line}" for line in theirs[theirs_from:theirs_to])

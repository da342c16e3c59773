"""Read CREATE FUNCTION and CREATE PROCEDURE: names, arguments, clauses in any order, body. Pure.

The grammar is PostgreSQL's (gram.y, func_args_with_defaults and createfunc_opt_list). Types are left as text, for
which type a name means depends on the server.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from pgscale.catalog.functions.model import Argument, Tokens, TypeName, Written
from pgscale.catalog.functions.tokens import fold, name_of, refined
from pgscale.errors import UsageError
from pgscale.sql.statements import Statement, Token

# Words that no parameter can be called without quotes, for a type begins with them (gram.y, col_name_keyword).
_TYPE_WORDS = frozenset(
    {
        *("bigint", "bit", "boolean", "char", "character", "dec", "decimal", "float", "int", "integer", "interval"),
        *("national", "nchar", "numeric", "real", "setof", "smallint", "time", "timestamp", "varchar"),
    }
)
# Words that go on with a type's name.
_TYPE_TAILS = {
    "double": ("precision",),
    "character": ("varying",),
    "char": ("varying",),
    "nchar": ("varying",),
    "bit": ("varying",),
    "national": ("character", "char", "varying"),
    "time": ("with", "without", "time", "zone"),
    "timestamp": ("with", "without", "time", "zone"),
    "interval": ("year", "month", "day", "hour", "minute", "second", "to"),
}
_MODES = {"in": "i", "out": "o", "inout": "b", "variadic": "v"}
_UNESCAPED = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPE = re.compile(r"\\(?:x([0-9A-Fa-f]{1,2})|u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([0-7]{1,3})|(.))|''", re.DOTALL)
# A string of several lines is several strings (tokens.refined puts them together).
_PIECE = re.compile(r"'((?:[^']|'')*)'")
_ESCAPED_PIECE = re.compile(r"'((?:[^'\\]|\\.|'')*)'", re.DOTALL)


def read_routine(statement: Statement) -> Written | None:
    """Read a statement of a file; None when it makes no function and no procedure.

    Raises:
        UsageError: it cannot be read, with file and line.
    """
    words = statement.terms[:4]
    rest = words[3:4] if words[1:3] == ("OR", "REPLACE") else words[1:2]
    if words[:1] != ("CREATE",) or rest not in {("FUNCTION",), ("PROCEDURE",)}:
        return None
    return _Reader(statement).read()


def read_definition(text: str, name: str) -> Written:
    """Read one CREATE FUNCTION or CREATE PROCEDURE that is known to be one.

    Args:
        name: for messages.
    """
    # Not split first: where it ends is known, and that takes as long as reading it.
    last_line = text.count("\n") + 1
    whole = Statement(
        file=name, line=1, last_line=last_line, whole=text, start=0, first=0, end=len(text), terms=(), comments=()
    )
    return _Reader(whole).read()


@dataclass(slots=True)
class _Clauses:
    returns: TypeName | None = None
    returns_set: bool = False
    columns: tuple[Argument, ...] = ()
    language: str = ""
    options: dict[str, str] = field(default_factory=dict[str, str])
    settings: dict[str, Tokens | None] = field(default_factory=dict[str, "Tokens | None"])
    body: str | None = None
    link: str | None = None
    sql_body: Tokens | None = None


class _Reader:
    """A statement's tokens, and how far they have been read."""

    def __init__(self, statement: Statement) -> None:
        self._statement = statement
        self._tokens = tuple(refined(iter(statement.tokens)))
        self._at = 0

    def read(self) -> Written:
        self._expect("create")
        if self._takes("or"):
            self._expect("replace")
        kind: Literal["function", "procedure"] = "function" if self._takes("function") else "procedure"
        if kind == "procedure":
            self._expect("procedure")
        *qualifier, name = self._dotted_name()
        self._expect("(")
        arguments = self._arguments(")")
        found = self._clauses()
        if not found.language and found.sql_body is not None:
            found.language = "sql"
        if not found.language:
            raise self._error("has no LANGUAGE")
        if found.body is None and found.sql_body is None:
            raise self._error("has no body")
        statement = self._statement
        return Written(
            file=statement.file,
            line=statement.line,
            start=statement.first,
            end=statement.end,
            text=statement.text,
            kind=kind,
            schema=qualifier[-1] if qualifier else None,
            name=name,
            arguments=(*arguments, *found.columns),
            returns=found.returns,
            returns_set=found.returns_set,
            language=found.language,
            options=_without_defaults(found),
            settings=found.settings,
            body=found.body,
            link=found.link,
            sql_body=found.sql_body,
        )

    # Tokens

    def _peek(self, ahead: int = 0) -> Token | None:
        place = self._at + ahead
        return self._tokens[place] if place < len(self._tokens) else None

    def _is(self, text: str, ahead: int = 0) -> bool:
        token = self._peek(ahead)
        return token is not None and token.kind in {"word", "other"} and token.text == text

    def _takes(self, *texts: str) -> bool:
        """Go past these words when they come next."""
        if not all(self._is(text, ahead) for ahead, text in enumerate(texts)):
            return False
        self._at += len(texts)
        return True

    def _take(self) -> Token:
        token = self._peek()
        if token is None:
            raise self._error("ends too early")
        self._at += 1
        return token

    def _expect(self, text: str) -> None:
        if not self._takes(text):
            token = self._peek()
            raise self._error(f"has {token.text} where {text} was expected" if token else f"ends before {text}")

    def _error(self, what: str) -> UsageError:
        token = self._peek() or (self._tokens[-1] if self._tokens else None)
        line = token.line if token is not None else self._statement.line
        return UsageError(
            f"{self._statement.file}:{line}: the CREATE that begins in line {self._statement.line} {what}."
        )

    def _name(self) -> str:
        token = self._take()
        if token.kind not in {"word", "quoted"}:
            self._at -= 1
            raise self._error(f"has {token.text} where a name was expected")
        return name_of(token)

    def _dotted_name(self) -> tuple[str, ...]:
        names = [self._name()]
        while self._takes("."):
            names.append(self._name())
        return tuple(names)

    # Arguments

    def _arguments(self, end: str) -> tuple[Argument, ...]:
        found: list[Argument] = []
        if self._takes(end):
            return ()
        while True:
            found.append(self._argument())
            if self._takes(end):
                return tuple(found)
            self._expect(",")

    def _argument(self) -> Argument:
        mode = self._mode()
        name = ""
        if self._begins_with_name():
            name = self._name()
            mode = mode or self._mode()
        type_name = self._type()
        default: Tokens | None = None
        if self._takes("default") or self._takes("=") or self._takes(":="):
            default = tuple(token.text for token in self._until(",", ")"))
        return Argument(mode=mode or "i", name=name, type=type_name, default=default)

    def _mode(self) -> str:
        if self._takes("in", "out"):
            return "b"
        for word, mode in _MODES.items():
            if self._takes(word):
                return mode
        return ""

    def _begins_with_name(self) -> bool:
        """Tell whether a name comes next and then a type: a type alone would be followed by what ends an argument."""
        token = self._peek()
        if token is None or token.kind not in {"word", "quoted"}:
            return False
        if token.kind == "word" and token.text in _TYPE_WORDS:
            return False
        here = self._at
        self._type()
        ends = any(self._is(text) for text in (",", ")", "default", "=", ":="))
        self._at = here
        return not ends

    def _type(self) -> TypeName:
        """Read a type, whatever it is, without SETOF."""
        first = self._take()
        if first.kind not in {"word", "quoted"}:
            self._at -= 1
            raise self._error(f"has {first.text} where a type was expected")
        parts = [first]
        while self._takes("."):
            parts += [self._tokens[self._at - 1], self._take()]
        if self._is("%") and self._is("type", 1):
            self._at += 2
            relation = " ".join(token.text for token in parts[:-2])
            return TypeName(text=relation, column=name_of(parts[-1]))
        tails = _TYPE_TAILS.get(first.text, ()) if first.kind == "word" and len(parts) == 1 else ()
        while (token := self._peek()) is not None:
            if token.kind == "word" and (token.text in tails or token.text == "array"):
                parts.append(self._take())
            elif token.text == "(" and token.kind == "other":
                parts += [self._take(), *self._until(")"), self._take()]
            elif token.text == "[" and token.kind == "other":
                parts += [self._take(), *self._until("]"), self._take()]
            else:
                break
        return TypeName(text=" ".join(token.text for token in parts))

    def _until(self, *ends: str) -> list[Token]:
        """Return the tokens before one of these that stands in no brackets."""
        found: list[Token] = []
        depth = 0
        while True:
            token = self._peek()
            if token is None:
                raise self._error(f"ends before {ends[0]}")
            if token.kind == "other":
                if depth == 0 and token.text in ends:
                    return found
                depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
            found.append(self._take())

    # Clauses

    def _clauses(self) -> _Clauses:
        found = _Clauses()
        while self._peek() is not None:
            if self._is("return") or self._is("begin"):
                # What follows AS is a string; a body of SQL comes last.
                found.sql_body = tuple(token.text for token in self._tokens[self._at :])
                self._at = len(self._tokens)
            elif not any(clause(found) for clause in self._readers()):
                token = self._take()
                self._at -= 1
                raise self._error(f"has {token.text} where a clause was expected")
        return found

    def _readers(self) -> Iterator[Callable[[_Clauses], bool]]:
        yield self._null_input
        yield self._returns
        yield self._language
        yield self._as
        yield self._flags
        yield self._setting
        yield self._values

    def _null_input(self, found: _Clauses) -> bool:
        if self._takes("strict") or self._takes("returns", "null", "on", "null", "input"):
            found.options["STRICT"] = "strict"
            return True
        return self._takes("called", "on", "null", "input")

    def _returns(self, found: _Clauses) -> bool:
        if not self._takes("returns"):
            return False
        if self._takes("table"):
            self._expect("(")
            columns = self._arguments(")")
            found.columns = tuple(Argument(mode="t", name=each.name, type=each.type) for each in columns)
            found.returns_set = True
        else:
            found.returns_set = self._takes("setof")
            found.returns = self._type()
        return True

    def _language(self, found: _Clauses) -> bool:
        if not self._takes("language"):
            return False
        token = self._take()
        # LANGUAGE 'plpgsql' is as old as PostgreSQL, and is folded as a name is not.
        found.language = fold(self._string(token)) if token.kind == "string" else name_of(token)
        return True

    def _as(self, found: _Clauses) -> bool:
        if not self._takes("as"):
            return False
        found.body = self._string(self._take())
        if self._takes(","):
            found.link = self._string(self._take())
        return True

    def _flags(self, found: _Clauses) -> bool:
        for word in ("immutable", "stable", "volatile"):
            if self._takes(word):
                found.options["volatility"] = word
                return True
        if self._takes("not", "leakproof"):
            return True
        if self._takes("leakproof"):
            found.options["LEAKPROOF"] = "leakproof"
            return True
        if self._takes("window"):
            found.options["WINDOW"] = "window"
            return True
        here = self._at
        self._takes("external")
        if self._takes("security"):
            word = self._name()
            if word == "definer":
                found.options["SECURITY"] = "definer"
            return True
        self._at = here
        return False

    def _values(self, found: _Clauses) -> bool:
        if self._takes("parallel"):
            token = self._take()
            found.options["PARALLEL"] = fold(self._string(token)) if token.kind == "string" else name_of(token)
        elif self._takes("cost"):
            found.options["COST"] = self._number()
        elif self._takes("rows"):
            found.options["ROWS"] = self._number()
        elif self._takes("support"):
            found.options["SUPPORT"] = ".".join(self._dotted_name())
        elif self._takes("transform"):
            types: list[str] = []
            while True:
                self._expect("for")
                self._expect("type")
                types.append(self._type().text)
                if not self._takes(","):
                    break
            found.options["TRANSFORM"] = ", ".join(sorted(types))
        else:
            return False
        return True

    def _number(self) -> str:
        text = self._take().text
        if text in {"+", "-"}:
            text += self._take().text
        try:
            return f"{float(text):g}"
        except ValueError:
            raise self._error(f"has {text} where a number was expected") from None

    def _setting(self, found: _Clauses) -> bool:
        if not self._takes("set"):
            return False
        if self._takes("time", "zone"):
            name = "timezone"
        elif self._takes("schema"):
            name = "search_path"
        else:
            name = ".".join(self._dotted_name()).lower()
            if self._takes("from", "current"):
                found.settings[name] = None
                return True
            if not self._takes("to"):
                self._expect("=")
        values = [self._value()]
        while self._takes(","):
            values.append(self._value())
        found.settings[name] = tuple(values)
        return True

    def _value(self) -> str:
        token = self._take()
        if token.text in {"+", "-"}:
            return token.text.strip("+") + self._take().text
        return (
            self._string(token) if token.kind == "string" else name_of(token) if token.kind == "quoted" else token.text
        )

    def _string(self, token: Token) -> str:
        if token.kind != "string":
            self._at -= 1
            raise self._error(f"has {token.text} where a string was expected")
        text = token.text
        if text.startswith("$"):
            tag = text.index("$", 1) + 1
            return text[tag:-tag]
        if text[0] in "eE":
            return "".join(_ESCAPE.sub(_unescaped, piece) for piece in _ESCAPED_PIECE.findall(text[1:]))
        if text[0] != "'":
            raise self._error(f"has the string {text[0]}'…'; write it as '…' or $$…$$")
        return "".join(piece.replace("''", "'") for piece in _PIECE.findall(text))


def _unescaped(found: re.Match[str]) -> str:
    byte, short, long, octal, letter = found.groups()
    if byte or octal:
        return chr(int(byte, 16) if byte else int(octal, 8) & 0xFF)
    if short or long:
        return chr(int(short or long, 16))
    return "'" if letter is None else _UNESCAPED.get(letter, letter)


def _without_defaults(found: _Clauses) -> dict[str, str]:
    """Return the options that are not what they would be without a word, as pg_get_functiondef leaves them out."""
    fixed = {"volatility": "volatile", "PARALLEL": "unsafe"}
    fixed["COST"] = "1" if found.language in {"c", "internal"} else "100"
    fixed["ROWS"] = "1000" if found.returns_set else "0"
    return {name: value for name, value in found.options.items() if fixed.get(name) != value}

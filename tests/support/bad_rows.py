"""A table with every way in which a row can be bad, and the letters that are made of such rows."""

from __future__ import annotations

from typing import Any

import psycopg

from pgscale import write

LETTERS = "SELECT row_index, column_name, sqlstate, reason, row FROM pgscale.dead_letter ORDER BY row_index, id"
HERE = write.DeadLetters()


def letters_of(conn: psycopg.Connection[Any]) -> list[tuple[Any, ...]]:
    """Each letter's index, column, SQLSTATE, reason and row."""
    return conn.execute(LETTERS).fetchall()


ZOO = """
CREATE TYPE mood AS ENUM ('ok');
CREATE DOMAIN few AS integer CHECK (VALUE < 9);
CREATE TABLE parent (id integer PRIMARY KEY);
INSERT INTO parent VALUES (1);
CREATE TABLE zoo (
  id integer PRIMARY KEY, req text NOT NULL DEFAULT '', vc varchar(3), few few, pos integer CHECK (pos > 0),
  pair integer, pid integer REFERENCES parent, late integer REFERENCES parent DEFERRABLE INITIALLY DEFERRED,
  once integer UNIQUE DEFERRABLE INITIALLY DEFERRED, j jsonb, m mood, said text,
  made integer GENERATED ALWAYS AS (10 / (id - 999)) STORED,
  CHECK (pair <> pos)
);
CREATE FUNCTION judge() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
  IF NEW.said = 'no' THEN RAISE EXCEPTION 'never say no'; END IF;
  IF NEW.said = 'mine' THEN RAISE EXCEPTION 'mine' USING ERRCODE = 'ZZ001'; END IF;
  RETURN NULL; END $$;
CREATE TRIGGER judge AFTER INSERT OR UPDATE ON zoo FOR EACH ROW EXECUTE FUNCTION judge();
INSERT INTO zoo (id, once) VALUES (0, 0);
"""
COLUMNS = ("id", "req", "vc", "few", "pos", "pair", "pid", "late", "once", "j", "m", "said")
# What makes a row bad; its SQLSTATE, the column told, and a part of the reason.
BAD: list[tuple[dict[str, Any], str | None, str | None, str]] = [
    ({"req": None}, "23502", "req", 'null value in column "req" of relation "zoo"'),
    ({"req": 5}, None, "req", "int where text is wanted"),
    ({"req": "a\0b"}, None, "req", "NUL"),
    ({"req": "\ud800"}, None, "req", "lone surrogate"),
    ({"vc": "four"}, "22001", "vc", "value too long for type character varying(3)"),
    ({"few": 9}, "23514", "few", "value for domain few violates"),
    ({"pos": 0}, "23514", "pos", "zoo_pos_check"),
    ({"pos": 3, "pair": 3}, "23514", None, "zoo_check"),
    ({"pid": 7}, "23503", "pid", "zoo_pid_fkey"),
    ({"late": 7}, "23503", "late", "zoo_late_fkey"),
    ({"id": 0}, "23505", "id", "zoo_pkey"),
    ({"once": 0}, "23505", "once", "zoo_once_key"),
    ({"id": 999}, "22012", None, "division by zero"),
    ({"j": "{"}, "22P02", "j", "invalid input syntax for type json"),
    ({"m": "bad"}, None, "m", "no label of enum mood"),
    ({"said": "no"}, "P0001", None, "never say no"),
    ({"said": "mine"}, "ZZ001", None, "mine"),
]


def row_of(number: int, **bad: Any) -> dict[str, Any]:
    """A good row of the zoo, but for what is said to be bad of it."""
    usual = {
        "req": "x",
        "vc": "abc",
        "few": 1,
        "pos": 1,
        "pair": 2,
        "pid": 1,
        "late": 1,
        "j": "{}",
        "m": "ok",
        "said": "yes",
    }
    return dict.fromkeys(COLUMNS) | usual | {"id": 1000 + number, "once": 1000 + number} | bad

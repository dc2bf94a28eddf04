"""Groups of ledger operations: functions of a connection that become methods with their own transaction.

An operation is written once, as a function whose first parameter is a connection, so that one
transaction can call several of them. A group lists operations as ``name = read(function)`` or
``name = write(function)``; the method has the function's signature without the connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, Generic, ParamSpec, Self, TypeVar, overload

from sqlalchemy import Connection

from opencode_tasks.ledger.database import Database

P = ParamSpec("P")
T = TypeVar("T")


class Group:
    """Operations on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database


class Operation(Generic[P, T]):
    """A function of a connection as a method of a ``Group``."""

    def __init__(self, function: Callable[Concatenate[Connection, P], T], *, writes: bool) -> None:
        self._function = function
        self._writes = writes
        self.__doc__ = function.__doc__

    @overload
    def __get__(self, group: None, owner: type[Group]) -> Self: ...
    @overload
    def __get__(self, group: Group, owner: type[Group]) -> Callable[P, T]: ...
    def __get__(self, group: Group | None, owner: type[Group]) -> Self | Callable[P, T]:
        if group is None:
            return self

        def method(*args: P.args, **kwargs: P.kwargs) -> T:
            def work(connection: Connection) -> T:
                return self._function(connection, *args, **kwargs)

            return group.database.write(work) if self._writes else group.database.read(work)

        method.__doc__ = self.__doc__
        return method


def read(function: Callable[Concatenate[Connection, P], T]) -> Operation[P, T]:
    """A method that runs a query in a transaction that only reads."""
    return Operation(function, writes=False)


def write(function: Callable[Concatenate[Connection, P], T]) -> Operation[P, T]:
    """A method that runs a function in one write transaction, so the function must be repeatable."""
    return Operation(function, writes=True)

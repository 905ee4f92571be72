"""Reads CIFAR-10's official batches, which are pickles, without running anything.

A pickle is a program for a small stack machine. This one knows only the instructions that the batches need: plain
values, lists, tuples, dictionaries and one array of bytes. Names of functions are never looked up: the three that NumPy
writes for an array are recognised as text, any other name or instruction is refused.
"""

import pickletools
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

PIXELS = 3 * 32 * 32
_RECONSTRUCT = ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct")
_NDARRAY = "numpy ndarray"
_DTYPE = "numpy dtype"
_MARK = object()
_MOST_INSTRUCTIONS = 500_000  # a batch has some 60,000; each can make an object many times its size


@dataclass(frozen=True)
class Batch:
    pixels: npt.NDArray[np.uint8]  # (N, 3072), red, green, blue, each 32x32 row by row
    labels: tuple[int, ...]  # class numbers, 0..9


@dataclass(frozen=True)
class _Name:
    """A global that was named, not fetched."""

    text: str


@dataclass
class _Array:
    """NumPy's empty array, filled by the instruction BUILD."""

    values: npt.NDArray[np.uint8] | None = None


class _ByteType:
    """NumPy's dtype uint8; its state says nothing that matters for bytes."""


class _RefusedError(Exception):
    """The program asks for something that no batch needs; the text is a noun phrase."""


def read_batch(content: bytes, name: str) -> Batch:
    """The pixels and labels of one batch; DataError, naming the file, for anything that is not one."""
    try:
        fields = _run(content)
        # Python 2 wrote the keys as bytes; a copy that was saved again by Python 3 has text.
        named = {key.decode("latin-1") if isinstance(key, bytes) else key: value for key, value in fields.items()}
        return _batch(named["data"], named["labels"])
    except _RefusedError as error:
        raise DataError(
            f"{name} contains {error}, which no CIFAR-10 batch does, so it was not read (nothing in it was run): get "
            "cifar-10-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html."
        ) from error
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        raise DataError(
            f"{name} is damaged or not a CIFAR-10 batch: get cifar-10-python.tar.gz from "
            "https://www.cs.toronto.edu/~kriz/cifar.html."
        ) from error


def _batch(data: Any, labels: Any) -> Batch:
    pixels = data.values
    if pixels is None or pixels.ndim != 2 or pixels.shape[1] != PIXELS or len(pixels) != len(labels):
        raise ValueError("data must be (N, 3072) with N labels")
    if not all(type(label) is int and 0 <= label <= 9 for label in labels):
        raise ValueError("labels must be 0..9")
    return Batch(pixels, tuple(labels))


def _run(program: bytes) -> dict[Any, Any]:
    """What the pickle builds, a dictionary; _RefusedError or an ordinary error for any other program."""
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    argument: Any
    for count, (opcode, argument, _) in enumerate(pickletools.genops(program)):
        if count > _MOST_INSTRUCTIONS:
            raise _RefusedError(f"more than {_MOST_INSTRUCTIONS} instructions")
        match opcode.name:
            case "PROTO":
                pass
            case "STOP":
                break
            case "MARK":
                stack.append(_MARK)
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(opcode.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                stack.append(argument)
            case "BINSTRING" | "SHORT_BINSTRING":
                stack.append(argument.encode("latin-1"))  # pickletools decoded Python 2's byte string with it
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_TUPLE":
                stack.append(())
            case "TUPLE":
                items = _pop_to_mark(stack)
                stack.append(tuple(items))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                count = int(opcode.name[-1])
                stack[-count:] = [tuple(stack[-count:])]
            case "APPEND":
                item = stack.pop()
                stack[-1].append(item)
            case "APPENDS":
                items = _pop_to_mark(stack)
                stack[-1].extend(items)
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _set_items(stack[-1], [key, value])
            case "SETITEMS":
                items = _pop_to_mark(stack)
                _set_items(stack[-1], items)
            case "BINPUT" | "LONG_BINPUT":
                memo[argument] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                stack.append(memo[argument])
            case "GLOBAL":
                stack.append(_name(argument))
            case "REDUCE":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_call(function, arguments))
            case "BUILD":
                state = stack.pop()
                _fill(stack[-1], state)
            case other:
                raise _RefusedError(f"the pickle instruction {other}")
    (result,) = stack
    if not isinstance(result, dict):
        raise ValueError("a batch is a dictionary")
    return result


def _pop_to_mark(stack: list[Any]) -> list[Any]:
    items = []
    while (item := stack.pop()) is not _MARK:
        items.append(item)
    return items[::-1]


def _set_items(target: Any, items: list[Any]) -> None:
    for key, value in zip(items[::2], items[1::2], strict=True):
        if not isinstance(key, bytes | str):  # hashing a tuple nested a million deep would overflow the C stack
            raise _RefusedError("a key that is not text")
        target[key] = value


def _name(text: str) -> _Name:
    if text not in (*_RECONSTRUCT, _NDARRAY, _DTYPE):
        raise _RefusedError(f"a reference to {text.replace(' ', '.')!r}")
    return _Name(text)


def _call(function: Any, arguments: Any) -> _Array | _ByteType:
    """An inert stand-in for the two calls that a pickled byte array makes."""
    if isinstance(function, _Name) and function.text in _RECONSTRUCT and arguments[0] == _Name(_NDARRAY):
        return _Array()
    if function == _Name(_DTYPE) and arguments[0] in (b"u1", "u1"):
        return _ByteType()
    raise _RefusedError("a call other than that of a byte array")


def _fill(target: Any, state: Any) -> None:
    if isinstance(target, _ByteType):
        return
    if not isinstance(target, _Array):
        raise _RefusedError("an object that is not an array")
    _, shape, dtype, is_fortran, raw = state
    if not isinstance(dtype, _ByteType) or not isinstance(raw, bytes):
        raise ValueError("the array must hold bytes")
    if not all(type(length) is int for length in shape):
        raise ValueError("the array's shape must be integers")
    target.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order="F" if is_fortran else "C")

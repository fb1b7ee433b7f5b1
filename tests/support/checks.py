"""Check arguments and results of every function of the tested packages against annotations.

As the hook of jaxtyping does (`--jaxtyping-packages`), and jaxtyping and beartype do the comparing.
Theirs costs half of a test's time: it looks at each tensor of each call anew, and makes two more
functions for every `def` that is run, also inside a function called once a token. Here what was
compared once is not compared again: a call whose arguments are of types, shapes and dtypes that
passed before passes, and a function that is never called costs nothing. Where one test calls a
function more than `OFTEN` times, every `SPARSE`-th call beyond is looked at.
"""

import ast
import contextlib
import dataclasses
import functools
import inspect
import sys
import threading
import types
from collections.abc import Callable, Hashable, Iterator, Mapping
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from typing import Any

import jaxtyping
import torch
from beartype import beartype

NAME = "_compared_with_annotations"  # what the decorator is called in the modules
OFTEN, SPARSE = 24, 8  # calls of a function per test that are all checked; beyond, one in this many
LONGEST = 64  # items of a container that are inspected; calls with longer ones are always checked
ATOMS = frozenset({int, float, bool, str, types.NoneType, torch.dtype, torch.device})
Look = Callable[[Any], Hashable]


class TooLong(TypeError):
    """A container with more items than are checked."""


def look(x: Any) -> Hashable:
    """The properties of a value that an annotation can refer to."""
    kind = type(x)
    if kind is torch.Tensor:
        return x.shape, x.dtype
    return (_looks.get(kind) or _looks.setdefault(kind, _look_at(kind)))(x)


_looks: dict[type, Look] = {}


def _look_at(kind: type) -> Look:
    """How to inspect values of a type."""
    if kind in ATOMS:
        return type
    if issubclass(kind, tuple | list):
        return _look_at_row
    if issubclass(kind, set | frozenset):
        return lambda x: (kind, frozenset(_look_at_row(x)))
    if issubclass(kind, dict):
        return lambda x: (kind, *map(_look_at_row, _short(x).items()))
    if issubclass(kind, type):
        return lambda x: x
    if issubclass(kind, Mapping):
        return _refused
    if hasattr(kind, "shape") and hasattr(kind, "dtype"):
        return lambda x: (kind, tuple(x.shape), x.dtype)
    return type


def _look_at_row(x: Any) -> Hashable:
    return (
        type(x),
        *[(y.shape, y.dtype) if type(y) is torch.Tensor else look(y) for y in _short(x)],
    )


def _short(x: Any) -> Any:
    return _refused(x) if len(x) > LONGEST else x


def _refused(x: Any) -> Any:
    raise TooLong


def way(annotation: Any) -> Look:
    """How to inspect a value; for a class annotation, only its type."""
    if isinstance(annotation, types.UnionType):
        return type if all(way(part) is type for part in annotation.__args__) else look
    if isinstance(annotation, str):  # a class that was not yet there
        return look if "[" in annotation else type
    if isinstance(annotation, type) and not issubclass(annotation, jaxtyping.AbstractArray):
        return type
    return look


class Known:
    """How the arguments of a function are looked at, and which looks passed.

    A nested function is another object at every call of the outer one; its code is one, and so is
    what is known of it.
    """

    def __init__(self, function: types.FunctionType):
        self.first = function
        # checks and calls any of them: created once, because that is slow
        self.strict: Callable[..., Any] | None = None
        said = function.__annotations__
        code = function.__code__
        names = code.co_varnames[: code.co_argcount]
        self.ways: tuple[Look, ...] = tuple(way(said.get(name, object)) for name in names)
        self.rest = look if code.co_flags & inspect.CO_VARARGS else None
        self.plain = not any(isinstance(x, str) or way(x) is look for x in said.values())
        self.answered = way(said["return"]) if "return" in said else type
        self.calls = 0  # in the current test
        self.passed: dict[
            Hashable, set[Hashable]
        ] = {}  # look of the arguments -> look of the result

    def compare(self, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Call ``function``, compared; jaxtyping is for what may hold a shape."""
        if self.strict is None:
            same = functools.wraps(self.first)(_running_one(self.first.__globals__))
            self.strict = (
                beartype(same) if self.plain else jaxtyping.jaxtyped(same, typechecker=beartype)
            )
        _running.stack.append(function)
        try:
            return self.strict(*args, **kwargs)
        finally:
            _running.stack.pop()

    def look(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Hashable:
        """Check the arguments of one call."""
        seen = [
            (x.shape, x.dtype) if type(x) is torch.Tensor else see(x)
            for see, x in zip(self.ways, args, strict=False)
        ]
        if self.rest and len(args) > len(seen):
            seen.append(look(args[len(seen) :]))
        if kwargs:
            seen.append(look(kwargs))
        return tuple(seen)


class Running(threading.local):
    """The checked functions, nested ones included."""

    def __init__(self) -> None:
        self.stack: list[Callable[..., Any]] = []


_running = Running()
known: dict[Hashable, Known] = {}
_counted: list[Known] = []  # called in the current test
_resting: list[bool] = []  # one for each that is at rest


def begin() -> None:
    """Start of a test: every function is checked again."""
    for one in _counted:
        one.calls = 0
    _counted.clear()


@contextlib.contextmanager
def at_rest() -> Iterator[None]:
    """No checks within this context: for thousands of calls of code tested elsewhere."""
    _resting.append(True)
    try:
        yield
    finally:
        _resting.pop()


def compared(function: Any) -> Any:
    """The function, property or dataclass with checks of its annotations."""
    if isinstance(function, classmethod | staticmethod):
        return type(function)(compared(function.__func__))
    if isinstance(function, property):
        return property(*(f and compared(f) for f in (function.fget, function.fset, function.fdel)))
    if isinstance(function, type):
        if dataclasses.is_dataclass(function) and "__init__" in vars(function):
            function.__init__ = compared(function.__init__)
        return function
    if not inspect.isfunction(function) or not function.__annotations__:
        return function
    key = (function.__code__, *function.__annotations__.items())
    try:
        found = known.get(key) or known.setdefault(key, Known(function))
    except TypeError:  # an unhashable annotation
        found = Known(function)
    return _compared(function, found)


def _compared(function: types.FunctionType, known: Known) -> Callable[..., Any]:
    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if _resting or torch.compiler.is_compiling():
            return function(*args, **kwargs)
        known.calls += 1
        if known.calls > OFTEN and known.calls % SPARSE:
            return function(*args, **kwargs)
        if known.calls == 1:
            _counted.append(known)
        try:
            seen = known.look(args, kwargs)
            answers = known.passed.get(seen)
        except TypeError:
            return known.compare(function, args, kwargs)
        if answers is None:
            answer = known.compare(function, args, kwargs)
        else:
            answer = function(*args, **kwargs)
        try:
            found = known.answered(answer)
        except TypeError:
            found = None
        if answers is not None and (found is None or found not in answers):
            known.compare(lambda *_, **__: answer, args, kwargs)
        if found is not None:
            known.passed.setdefault(seen, set()).add(found)
        return answer

    return called


def _running_one(names: dict[str, Any]) -> types.FunctionType:
    """A function that calls the one that runs; annotations are looked up among ``names``."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return running.stack[-1](*args, **kwargs)

    running = _running
    return types.FunctionType(call.__code__, names, call.__name__, None, call.__closure__)


def mark(node: Any) -> None:
    """Put the decorator next to every function inside, and above every class that has another.

    Only statements hold them, so no expression is looked into.
    """
    if isinstance(node, ast.FunctionDef | ast.ClassDef):
        if any("no_type_check" in ast.unparse(d) for d in node.decorator_list):
            return
        here = ast.copy_location(ast.Name(NAME, ast.Load()), node)
        if isinstance(node, ast.ClassDef):  # outermost: a dataclass is one by then
            node.decorator_list[:0] = [here] if node.decorator_list else []
        elif node.returns or any(argument.annotation for argument in _arguments(node.args)):
            node.decorator_list.append(here)  # innermost: others see it as it will be called
    for part in ("body", "handlers", "orelse", "finalbody", "cases"):
        for inside in getattr(node, part, ()):
            mark(inside)


def _arguments(args: ast.arguments) -> list[ast.arg]:
    every = (*args.posonlyargs, *args.args, *args.kwonlyargs, args.vararg, args.kwarg)
    return [argument for argument in every if argument is not None]


class Loader(SourceFileLoader):
    """Loads a module with its functions decorated; byte code is not cached."""

    def get_code(self, fullname: str) -> types.CodeType:
        path = self.get_filename(fullname)
        tree = ast.parse(self.get_data(path))
        mark(tree)
        return compile(tree, path, "exec", dont_inherit=True)

    def exec_module(self, module: types.ModuleType) -> None:
        setattr(module, NAME, compared)
        super().exec_module(module)


class Finder:
    """Finds modules of the packages and loads them with the decorator."""

    def __init__(self, packages: tuple[str, ...]):
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Like the path finder."""
        if name.partition(".")[0] not in self.packages:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install(*packages: str) -> None:
    """From now on load modules of these packages with checks."""
    sys.meta_path.insert(0, Finder(packages))

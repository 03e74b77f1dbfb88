"""Reading YAML that anybody may have written: plain values, each key once, and bounds on size, depth and aliases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from rimrl.errors import shorten, wrong
from rimrl.reading import MEGABYTE, MOST_DIGITS, read_text

_DEEPEST = 32
_MOST_VALUES = 20_000
_NOT_PLAIN = {f"tag:yaml.org,2002:{tag}" for tag in ("binary", "omap", "pairs", "set")}


def read_yaml(file: Path, follow: bool = True, most: int = MEGABYTE, most_values: int = _MOST_VALUES) -> Any:
    """Content of a YAML file.

    Args:
        file: The file.
        follow: Whether it may be a link; default True. False for files in run folders, which may come from others.
        most: Bytes that it may have; default 1 MiB.
        most_values: Values that it may hold, those of aliases counted wherever they stand.

    Raises:
        UsageError: If it cannot be read, is not YAML, has a key twice in one mapping, or is out of bounds.
    """
    text = read_text(file, most, follow)
    try:
        loader = _Bounded(text, most_values)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:  # such as a 13th month
        reason = " ".join(str(error).replace("<unicode string>", file.name).split())
        raise wrong(file, f"is not valid YAML: {reason[:300]}", kind="damaged") from None


class _Bounded(yaml.SafeLoader):
    """The safe loader with bounds; YAML forbids keys that stand twice, and the safe loader takes the last one."""

    def __init__(self, text: str, most_values: int) -> None:
        super().__init__(text)
        self._most_values = most_values
        self._depth = self._values = 0
        # Number of values and depth of every collection that is complete.
        self._measured: dict[int, tuple[int, int]] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(node, yaml.CollectionNode):
            if is_alias and id(node) not in self._measured:
                raise _problem("an alias stands for what it is a part of", node)
            values, depth = self._measured.setdefault(id(node), _measured(node, self._measured))
            if self._depth + depth > _DEEPEST:
                raise _problem(f"values are nested more than {_DEEPEST} deep", node)
            self._values = self._values + values if is_alias else self._values + 1
        else:
            self._values += 1
        if self._values > self._most_values:
            raise _problem(f"it holds more than {self._most_values} values", node)
        return node

    def compose_sequence_node(self, anchor: Any) -> Any:
        self._check_depth()
        return super().compose_sequence_node(anchor)

    def compose_mapping_node(self, anchor: Any) -> Any:
        self._check_depth()
        node = super().compose_mapping_node(anchor)
        met: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in met:
                    raise _problem(f"the key {shorten(key.value)} is there twice", node)
                met.add(key.value)
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        if node.tag in _NOT_PLAIN:
            raise _problem(f"{node.tag.rpartition(':')[2]} is none of the kinds of values that are taken", node)
        return super().construct_object(node, deep)

    def _check_depth(self) -> None:
        if self._depth > _DEEPEST:
            raise _problem(f"values are nested more than {_DEEPEST} deep", self.peek_event())  # type: ignore[no-untyped-call]


def _number(loader: _Bounded, node: yaml.ScalarNode) -> Any:
    """An integer or float that is short enough for what is done with it."""
    if len(node.value) > MOST_DIGITS:
        raise _problem(f"a number of {len(node.value)} digits", node)
    of_integer = node.tag.endswith(":int")
    return loader.construct_yaml_int(node) if of_integer else loader.construct_yaml_float(node)


for _tag in ("int", "float"):
    _Bounded.add_constructor(f"tag:yaml.org,2002:{_tag}", _number)


def _measured(node: yaml.CollectionNode, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """How many values a collection holds, itself included, and how deep they are nested in it."""
    pairs = isinstance(node, yaml.MappingNode)
    parts = [part for pair in node.value for part in pair] if pairs else node.value
    inner = [known.get(id(part), (1, 0)) for part in parts]
    return 1 + sum(values for values, _ in inner), 1 + max((depth for _, depth in inner), default=0)


def _problem(what: str, where: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, what, where.start_mark)

"""Files of arguments, in JSON or YAML, as plain data: each name is given once, and no part refers to another."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from hf_elmix.errors import UsageError, in_one_line

__all__ = ["read_arguments", "short"]


def read_arguments(path: str) -> Any:
    """Read a file of arguments; a name that ends in ``.json`` is JSON, any other YAML.

    Raises:
        UsageError: If it cannot be read, repeats a name, or refers to itself.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
        return (
            json.loads(text, object_pairs_hook=_each_once) if path.endswith(".json") else yaml.load(text, _PlainLoader)
        )
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"Cannot read the arguments in {path!r}: {in_one_line(error)}") from error


def short(value: Any) -> str:
    """A value for an error, cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]} …"


def _each_once(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    for name, count in Counter(str(name) for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"it gives {name!r} {count} times. Leave the others out.")
    return dict(pairs)


class _PlainLoader(yaml.SafeLoader):
    """Reads YAML that JSON could hold: dates stay text, and no part refers to another, which may grow without end."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in pairs if not tag.endswith(":timestamp")]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it refers to a part of itself (*). Write the values out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        _each_once([(name.value, None) for name, _ in node.value])
        return super().construct_mapping(node, deep)

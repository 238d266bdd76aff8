"""Help in groups, the loss first, and scripts with which a shell completes words."""

from __future__ import annotations

import argparse
from enum import Enum
from typing import Any

__all__ = ["SHELLS", "AllHelp", "Help", "add_flags_of", "completion", "sort_groups"]

SHELLS = ("bash", "zsh", "tcsh")
FIRST = ("commands", "loss", "methods")  # groups that come before all others


class Help(argparse.HelpFormatter):
    """Help that keeps the paragraphs of a description and ends each argument with its default.

    The usage has only what must be given, because the groups below it have everything.
    """

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _format_usage(self, usage: Any, actions: Any, groups: Any, prefix: Any) -> str:
        needed = [action for action in actions if action.required or not action.option_strings]
        return super()._format_usage(usage, needed, (), prefix).rstrip() + " [FLAGS]\n\n"

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(Help, self)._fill_text(part, width, indent) for part in text.split("\n\n"))

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        if "default:" in text or isinstance(default, bool | None) or default in ([], argparse.SUPPRESS):
            return text
        parts = default if isinstance(default, list | tuple) else [default]
        shown = " ".join(str(part.value if isinstance(part, Enum) else part) for part in parts)
        return f"{text} (default: {shown})"


class AllHelp(argparse.Action):
    """``--help_all``: the help with the flags of the parser's ``more``, which take seconds to import."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print it and exit."""
        parser.get_default("more")(parser)
        parser.print_help()
        parser.exit()


def sort_groups(parser: argparse.ArgumentParser) -> None:
    """Put what must be given and the loss before the other groups of a parser's help, and general options last."""
    order = {str(parser._positionals.title): 0, **dict.fromkeys(FIRST, 1), str(parser._optionals.title): 3}
    parser._action_groups.sort(key=lambda group: order.get(str(group.title), 2))


def add_flags_of(other: argparse.ArgumentParser, parser: argparse.ArgumentParser, leave_out: Any = ()) -> None:
    """Add those flags of another parser that a parser does not have yet, as a group of their own."""
    group = parser.add_argument_group("Trainer", "Flags of transformers.TrainingArguments.")
    for action in other._actions:
        action.option_strings = action.option_strings[:1]  # without the spelling with hyphens
        if action.dest not in leave_out and not {*action.option_strings} & {*parser._option_string_actions}:
            group._add_action(action)


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for a shell, one of `SHELLS`, that completes a program's commands, flags, losses and files."""
    import shtab

    from hf_elmix.losses.registry import KNOWN, LOSS_SETS, REGIMES

    losses = tuple(dict.fromkeys([*REGIMES, *KNOWN, *LOSS_SETS]))
    places: dict[str, Any] = {
        **dict.fromkeys(("FILE", "SOURCE", "MODEL", "DATASET"), shtab.FILE),
        **dict.fromkeys(("FOLDER", "runs", "run"), shtab.DIRECTORY),
    }

    def prepare(one: argparse.ArgumentParser) -> None:
        if more := one.get_default("more"):
            more(one)
        for action in one._actions:
            if isinstance(action, argparse._SubParsersAction):
                for sub in action.choices.values():
                    prepare(sub)
            elif action.metavar in ("LOSS", "MIXING"):
                action.choices = losses
            elif (name := action.metavar or action.dest) in places:
                action.complete = places[name]  # type: ignore[attr-defined]

    prepare(parser)
    return shtab.complete(parser, shell)

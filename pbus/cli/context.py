"""
What every command may ask for: which configuration is meant, its settings, how to print.

Rule: settings are loaded at most once and only when a command asks, so ``pbus --help`` reads no
file. A command gets its Context by ``@pass_context`` as its first argument.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

import click

from pbus.cli.output import Output
from pbus.errors import ConfigError, Problem

if TYPE_CHECKING:
    from pbus.config.load import Loaded
    from pbus.config.schema import Settings

DEFAULT_DIRECTORIES = ("conf.d", "/etc/pbus/conf.d")

P = ParamSpec("P")
R = TypeVar("R")


class Context:
    """
    One invocation of ``pbus``.

    Attributes:
        output: Where data and talk go; ``-o`` of the command has chosen its form.
    """

    def __init__(self, config_dir: str | None = None) -> None:
        self._given_dir = config_dir
        self._settings: Settings | None = None
        self.output = Output()

    def choose_config_dir(self, directory: str) -> None:
        """``-c DIR`` was met on the line; the last one counts."""
        self._given_dir = directory
        self._settings = None

    @property
    def config_dir(self) -> str:
        """
        Absolute path of the configuration folder: ``-c``, $PBUS_CONFIG, ./conf.d, /etc/pbus/conf.d.

        Raises:
            ConfigError: none was named and neither default exists.
        """
        named = self._given_dir or os.environ.get("PBUS_CONFIG")
        if named:
            return os.path.abspath(named)
        for directory in DEFAULT_DIRECTORIES:
            if os.path.isdir(directory):
                return os.path.abspath(directory)
        looked = " nor ".join(os.path.abspath(directory) for directory in DEFAULT_DIRECTORIES)
        what = f"no configuration: there is neither {looked}; name a folder with -c DIR or $PBUS_CONFIG"
        raise ConfigError([Problem("", "", what)])

    def settings(self) -> Settings:
        """
        The checked settings of ``config_dir``.

        Raises:
            ConfigError: with every problem.
        """
        if self._settings is None:
            from pbus.config.load import load

            self._settings = load(self.config_dir)
        return self._settings

    def loaded(self) -> Loaded:
        """
        ``settings``, and where each key came from.

        Raises:
            ConfigError: with every problem.
        """
        from pbus.config.load import load_with_origins

        loaded = load_with_origins(self.config_dir)
        self._settings = loaded.settings
        return loaded

    def run_dir(self) -> str:
        """
        Where the sockets of this configuration's bus are; a broken configuration is told, not fatal.

        Raises:
            ConfigError: not even that can be read.
        """
        try:
            return self.settings().node.run_dir
        except ConfigError as error:
            if not os.path.isdir(self.config_dir):
                raise
            from pbus.config.load import run_dir_of

            run_dir = run_dir_of(self.config_dir)
            count, check = len(error.problems), f"pbus config check -c {self.config_dir}"
            self.output.say(f"the configuration has {count} problem{'s'[:count > 1]} now, see '{check}'")
            return run_dir


def pass_context(function: Callable[Concatenate[Context, P], R]) -> Callable[P, R]:
    """Hand the Context of this invocation to a command as its first argument."""
    return click.make_pass_decorator(Context)(function)


def config_option(short: bool = False) -> click.Option:
    """``-c DIR``, the same wherever it stands on the line; ``main`` gives one to every command. *short*: that alone."""

    def choose(click_context: click.Context, _: click.Parameter, value: Any) -> None:
        context = click_context.find_object(Context)
        if value is not None and context is not None:
            context.choose_config_dir(value)

    names = ["config_folder", "-c"] if short else ["-c", "--config"]
    return click.Option(
        names, metavar="DIR", expose_value=False, is_eager=True, callback=choose,
        help="Configuration folder (default: $PBUS_CONFIG, ./conf.d, /etc/pbus/conf.d).",
    )

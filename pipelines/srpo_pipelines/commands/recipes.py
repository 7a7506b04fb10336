"""`srpo recipes`: which recipes there are."""

import argparse

HELP = "List the recipes, one line each."


def epilog() -> str:
    """What stands below the options."""
    return """a recipe is a set of parameters and settings: `srpo run --recipe NAME`, also of compile, submit and stage

example: srpo recipes
         srpo stage train --recipe flux1-dev-hpsv2 --settings"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no options."""


def main(args: argparse.Namespace) -> None:
    """Print each recipe's name and what its file says first."""
    from srpo_pipelines.settings import recipe_names, recipe_title

    names = recipe_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:{width}}  {recipe_title(name)}")

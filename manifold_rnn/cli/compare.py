"""``manifold-rnn compare``: run a comparison from its file."""

from ..study.settings import CompareSettings
from ..training.values import Values
from .parsing import CommandParser


def build_parser(command: str, description: str) -> CommandParser:
    """Return the parser of the command."""
    parser = CommandParser(description, CompareSettings, skip=("grid", "extend", "retry_failed"))
    parser.parser.add_argument("grid", type=str, help="YAML file of the comparison.")
    parser.add_flag("extend", bool, "Add to an existing study: values to a grid, seeds, or trials to a search.")
    parser.add_flag("retry_failed", bool, "Run all failed cases again; cases that are complete are kept.")
    return parser


def execute(command: str, values: Values) -> int:
    """Run the comparison and return the exit status."""
    settings = CompareSettings(**values)
    from ..study.comparison import compare  # here, because Optuna and Lightning take seconds to import

    return compare(settings)

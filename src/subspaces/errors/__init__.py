"""What is said of wrong arguments, and the one place that finds them."""

from subspaces.errors.arguments import at_least, check_fields, check_folder, checked, no_argument, one_of, within
from subspaces.errors.names import needs_package, shown, unknown_name

__all__ = [
    "at_least",
    "check_fields",
    "check_folder",
    "checked",
    "needs_package",
    "no_argument",
    "one_of",
    "shown",
    "unknown_name",
    "within",
]

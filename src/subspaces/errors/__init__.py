"""What is said of wrong arguments, and the one place that finds them."""

from subspaces.errors.arguments import at_least, check_fields, check_folder, checked, no_argument, one_of, within
from subspaces.errors.names import needs_package, shown, unknown_name
from subspaces.errors.platform import Terminated, need_posix

__all__ = [
    "Terminated",
    "at_least",
    "check_fields",
    "check_folder",
    "checked",
    "need_posix",
    "needs_package",
    "no_argument",
    "one_of",
    "shown",
    "unknown_name",
    "within",
]

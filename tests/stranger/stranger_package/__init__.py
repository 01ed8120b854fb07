"""A package that knows the library from outside and adds one of each to it."""

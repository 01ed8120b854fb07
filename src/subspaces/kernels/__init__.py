"""Pure functions that everything rests on: portable random bits and the Hadamard transform, and their backends."""

"""The only training loop and all that decides one run: `config`, `loop.train`, callbacks, result records."""

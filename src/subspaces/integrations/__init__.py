"""Other libraries' ways in: thin, each with an extra of its own, imported only by whoever asks for one."""

"""What a terminal shows while long work goes on."""

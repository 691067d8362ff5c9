"""How good is a checkpoint? Rows and tasks, decoding, scores with their intervals, and the report."""

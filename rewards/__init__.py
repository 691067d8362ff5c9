"""How good is a response? The grammar of a response, the verification of its answer, and the shipped rewards."""

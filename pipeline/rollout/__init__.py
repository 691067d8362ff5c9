"""How do completions come from the trained weights?"""

"""How does a recipe become a checkpoint? The recipe's schema, the stages, and what carries one into the next."""

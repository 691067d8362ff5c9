"""How is a recipe read, and what is wrong with it?"""

"""Can the recipe run, and what will it take?"""

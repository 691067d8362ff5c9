"""Which rows does a stage get, and what is wrong with the others?"""

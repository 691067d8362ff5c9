"""What does a run show of itself?"""

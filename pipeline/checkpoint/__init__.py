"""What lies in the run folder, and how does a run go on from it?"""

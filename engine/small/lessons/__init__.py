"""What small's language model is taught: who it is, to be short, to keep facts of the call, to say what it cannot know.

It is a few thin matrices (LoRA, arXiv 2106.09685), added to the weights when small is assembled.
"""

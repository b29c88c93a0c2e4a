"""Paper C, arXiv 2605.03686: from code alone, on which of two data sets does a network do better?"""
